"""The completions of zqueuectl for bash, zsh and fish, as scripts.

Each calls zqueuectl at every TAB, so none of them knows a verb, and none grows old. What is asked
and answered then is click's; the scripts are like click's, and better where the comments say so.
"""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_PROGRAM = "zqueuectl"
_VARIABLE = "_ZQUEUECTL_COMPLETE"

# click's own script hands over bash's words, in which "ipc:///path" is three, and "--queue=a" too:
# the line up to the cursor is split at blanks instead.
_BASH = """\
# bash completion of %(prog_name)s

%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" type value
    local -a words
    read -ra words <<<"$line"
    local number=$((${#words[@]} - 1))
    [[ $line == *[[:blank:]] ]] && number=$((number + 1))

    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD=$number %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

# click's own script puts the value of "--queue=a" in the place of the whole word, and offers
# nothing at the second TAB of a shell, where the autoloaded function is called and not loaded.
_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local type value help
    local -a answer alone explained
    (( $+commands[%(prog_name)s] )) || return 1
    answer=("${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    [[ $PREFIX == --*=* ]] && compset -P "*="

    for type value help in $answer; do
        case $type in
            plain) [[ $help == _ ]] && alone+=("$value") || explained+=("$value:$help") ;;
            dir) _path_files -/ ;;
            file) _path_files -f ;;
        esac
    done
    (( ! $#explained )) || _describe -V unsorted explained
    (( ! $#alone )) || compadd -V unsorted -a alone
}

if [[ $funcstack[1] == _%(prog_name)s ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

# click's own script ends an explanation at its first comma, and knows no "--queue=a" either.
_FISH = """\
# fish completion of %(prog_name)s

function %(complete_func)s
    set -l option (string match -r -- '^--[^=]+=' (commandline -t))
    set -l answer (env COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) \\
        %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
    for line in $answer
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case plain
                string join '' -- $option $item[2]
            case dir
                __fish_complete_directories $item[2]
            case file
                __fish_complete_path $item[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Bash(BashComplete):
    source_template = _BASH

    def source(self) -> str:
        # BashComplete's looks for the bash of this machine; the script is for any.
        return ShellComplete.source(self)


class _Zsh(ZshComplete):
    source_template = _ZSH


class _Fish(FishComplete):
    source_template = _FISH


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def script(shell: str, program: click.Command) -> str:
    """What ``shell`` is to read, for ``program``, which is zqueuectl."""
    return SHELLS[shell](program, {}, _PROGRAM, _VARIABLE).source().strip() + "\n"

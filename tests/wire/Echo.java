import java.util.Arrays;
import org.zeromq.ZMQ;

/** "worker ENDPOINT" echoes for ever; "client ENDPOINT" asks 300 times and checks the answers. */
public class Echo {
    public static void main(String[] arguments) {
        boolean isWorker = arguments[0].equals("worker");
        ZMQ.Socket socket = ZMQ.context(1).socket(isWorker ? ZMQ.REP : ZMQ.REQ);
        socket.connect(arguments[1]);
        while (isWorker) {
            socket.send(socket.recv(0), 0);
        }
        for (int size = 0; size < 300; size++) {
            byte[] body = new byte[size * size];
            Arrays.fill(body, (byte) size);
            socket.send(body, 0);
            if (!Arrays.equals(socket.recv(0), body)) {
                throw new RuntimeException("a wrong answer to " + size);
            }
        }
        System.exit(0);
    }
}

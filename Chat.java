// Chat.java - a WebSocket chat in one file: JDK 21 or later and nothing else. Public domain.

//     java Chat.java                                    the page is at http://localhost:8080
//     java Chat.java --trace                            ... and every byte that travels, explained
//     java Chat.java --explain 818537fa213d7f9f4d5158   one frame, explained

// Chat listens and serves the page. WebSocket turns bytes into messages and back; it knows nothing
// of the chat: cut out, with the imports, it is a library for your own script. Rooms is the chat,
// Redis joins servers, Web shows the page. What reads the command line and opens the ports comes
// after that, and the page itself last. A comment like §5.4 names the section of RFC 6455 that the
// code there obeys.

import com.sun.net.httpserver.*;
import java.io.*;
import java.net.*;
import java.nio.*;
import java.security.*;
import java.security.cert.*;
import java.text.Normalizer;
import java.time.LocalTime;
import java.time.format.DateTimeFormatter;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.concurrent.locks.*;
import java.util.function.*;
import java.util.stream.*;
import java.util.zip.*;
import javax.net.ssl.*;

import static java.lang.Character.UnicodeScript.*;
import static java.nio.charset.StandardCharsets.*;

/// The chat server: one port for the page (HTTP), one for the WebSockets.
/// In a program of your own: `try (var chat = new Chat(new Chat.Options()).start()) { … }`
public final class Chat implements AutoCloseable {
    static final String VERSION = "1.0";
    static final int WAITING_ROOM = 500;             // connections beyond the limit, to be told so
    static final long PAUSE = 100_000_000;           // ns, after a failure that may last
    static final long FAREWELL = 5_000_000_000L;     // ns for clients to answer our last Close
    static final int NAME_ROOM = 128;                // bytes: 24 letters and what is around them

    private final Options options;
    private final WebSocket.Settings settings;
    private final Ports ports;
    private final Access access;
    private final Set<WebSocket> connections = ConcurrentHashMap.newKeySet();
    private final Map<InetAddress, Integer> perAddress = new ConcurrentHashMap<>();
    private final Web web = new Web();
    private Rooms rooms;
    private volatile boolean stopping;

    public static void main(String[] arguments) {
        Locale.setDefault(Locale.ROOT);             // digits are 0 to 9 wherever they are read
        System.setOut(new Terminal(System.out));
        System.setErr(new Terminal(System.err));
        try {
            Options options = new Options(arguments);
            switch (options.task) {
                case SERVE -> serve(options);
                case CONNECT -> System.exit(new Client(options).talk());
                case EXPLAIN -> System.out.println(Explained.explain(options.frames()));
                case HELP -> System.out.println(Options.USAGE);
                case VERSION -> System.out.println(
                        "Chat.java " + VERSION + ", Java " + Runtime.version());
            }
        } catch (IllegalArgumentException wrong) {
            System.err.println("Chat.java: " + wrong.getMessage() + "\n" + Options.USAGE);
            System.exit(2);
        } catch (UncheckedIOException failure) {
            exit(failure.getCause());
        } catch (IOException failure) {
            exit(failure);
        }
    }

    private static void exit(IOException failure) {
        System.err.println("Chat.java: " + failure.getMessage());
        System.exit(1);
    }

    private static void serve(Options options) throws IOException {
        Chat chat = new Chat(options).start();
        Runtime.getRuntime().addShutdownHook(new Thread(chat::close));
        System.out.println("Chat.java: open " + chat.access.address("http", options.host)
                + "/ (WebSockets at " + chat.access.address("ws", options.host) + "/)");
    }

    Chat(Options options) {
        this.options = options;
        settings = options.settings;
        ports = new Ports(options, web::answer, this::accept);
        access = new Access(options, ports);
    }

    /// Binds both ports and serves until close(). If it can't, an IOException says why.
    Chat start() throws IOException {
        rooms = new Rooms(options.redis);
        try {
            ports.open();
        } catch (IOException failure) {
            close();
            throw failure;
        }
        settings.hint = "The page is at " + access.address("http", options.host) + "/";
        if (options.trace) settings.wire = new Explained(this::trace);
        ports.start();
        if (!ports.isLocal() && settings.tls == null)
            log("others on the network can reach this, and read along: see README, Security");
        return this;
    }

    int httpPort() { return ports.http(); }
    int webSocketPort() { return ports.webSocket(); }

    /// Each connection gets a virtual thread: it may wait as long as it likes, that costs nothing.
    private void accept(Socket socket) throws IOException {
        if (connections.size() >= options.maxConnections + WAITING_ROOM) socket.close();
        else Thread.startVirtualThread(() -> serve(socket));
    }

    private void serve(Socket socket) {
        var webSocket = new WebSocket(socket, settings);
        InetAddress network = Ports.network(socket.getInetAddress());
        connections.add(webSocket);
        try {
            int neighbours = perAddress.merge(network, 1, Integer::sum);
            boolean crowded = neighbours > options.maxPerAddress && !network.isLoopbackAddress();
            boolean full = crowded || connections.size() > options.maxConnections;
            webSocket.serve(handshake -> welcome(handshake, full), this::converse);
        } finally {
            connections.remove(webSocket);
            perAddress.computeIfPresent(network, (same, count) -> count == 1 ? null : count - 1);
        }
    }

    /// The life of a connection: enter, hear until there is nothing more to hear, leave.
    private void converse(WebSocket webSocket) throws IOException {
        if (webSocket.path().equals("/echo")) {
            echo(webSocket);
            return;
        }
        Rooms.Member member = rooms.enter(webSocket, Rooms.ofPath(webSocket.path()));
        try {
            while (webSocket.receive() instanceof WebSocket.Message message) {
                WebSocket.rule(message.isText(), 1003, "this chat is for text (§5.6)");
                String text = message.text();
                WebSocket.rule(mostHeard(message, text) <= settings.maxMessage, 1009,
                        "with a name before it, it is too long for others (§10.4)");
                rooms.hear(member, text);
            }
        } finally {
            rooms.leave(member);
        }
    }

    /// The most bytes that others hear: a name comes before it, and a TAB after each line break.
    /// That must not be more than one may say: many clients leave when they hear more than 1 MiB.
    private static int mostHeard(WebSocket.Message message, String text) {
        return message.payload().length + Event.tabs(text) + NAME_ROOM;
    }

    private static void echo(WebSocket webSocket) throws IOException {
        while (webSocket.receive() instanceof WebSocket.Message message) webSocket.send(message);
    }

    /// Decides about a handshake that is right in itself, and names the subprotocols of its path.
    private List<String> welcome(WebSocket.Handshake request, boolean full) throws IOException {
        String path = request.path(), room = Rooms.ofPath(path);
        WebSocket.rule(!stopping, 503, "the server stops: try again later");
        WebSocket.rule(!full, 503, "too many connections: try again later");
        WebSocket.rule(access.isNameOfOurs(request.host()), 403,
                "this server has other names; --host or --origin adds it");
        WebSocket.rule(access.allows(request.origin(), request.head().header("Host")), 403,
                "pages of another origin may not connect (§10.2); --origin ORIGIN allows it");
        WebSocket.rule(room != null || path.equals("/echo"), 404,
                "there is /, /echo, /chat, /chat/NAME (64 letters, digits, - or _) (§4.2.2)");
        WebSocket.rule(room == null || rooms.canHold(room), 503, "too many rooms, try the lobby");
        return room == null ? List.of() : List.of(Rooms.PRESENCE);
    }

    private void trace(Explained.Traced item) {
        Explained.print(item);
        web.offer(item);
    }

    /// One line on the terminal; nothing that a client has sent can break it or colour it.
    static void log(String line) {
        WebSocket.Log.print(Explained.now() + " " + WebSocket.printable(line));
    }

    /// Stops: takes no more connections, sends everyone 1001 (§7.4.1), waits some seconds for their
    /// answers, and cuts off who is left. Nothing stays behind.
    @Override
    public void close() {
        stopping = true;
        ports.close();
        for (WebSocket webSocket : connections) webSocket.close(1001, "the server stops (§7.4.1)");
        long start = System.nanoTime();
        while (!connections.isEmpty() && System.nanoTime() - start < FAREWELL && signals() < 2)
            LockSupport.parkNanos(10_000_000);
        for (WebSocket webSocket : connections) webSocket.cutOff(null);
        if (rooms != null) rooms.close();
        WebSocket.Log.flush();
    }

    /// How often the program was told to stop: a second time means at once. The JVM runs each
    /// signal in a thread named after it.
    private static int signals() {
        int count = 0;
        for (Thread thread : Thread.getAllStackTraces().keySet())
            if (isOfSignal(thread.getName())) count++;
        return count;
    }

    private static boolean isOfSignal(String thread) {
        return thread.startsWith("SIG") && thread.endsWith(" handler");
    }

    /// One WebSocket connection: RFC 6455, with compression by RFC 7692.
    ///
    /// First the client asks by a GET of HTTP, with `Upgrade: websocket`; the server answers 101.
    /// From then on no HTTP travels: both sides send frames whenever they like, each a short header
    /// and a payload. One frame, or several fragments, make a message. A ping asks for a sign of
    /// life; a pong answers it. To end, one side sends a Close with a code, and the other answers
    /// with a Close. Then the server ends TCP.
    ///
    /// A server serves a connection:
    ///
    ///     WebSocket.serve(socket, webSocket -> {                                    // opened
    ///         while (webSocket.receive() instanceof WebSocket.Message message)      // a message
    ///             webSocket.send(message);
    ///         System.out.println(webSocket.closeCode());                            // closed
    ///     });
    ///
    /// A client connects: `try (var webSocket = WebSocket.connect(URI.create("ws://…"))) { … }`
    ///
    /// One thread receives: in a server the one that called serve(). Any thread may send, ping and
    /// close. Only the thread that receives may have to wait in send() for a slow peer; post()
    /// never waits. A peer that breaks a rule is told which: then receive() throws the Refusal.
    static final class WebSocket implements AutoCloseable {

        // ---- What is allowed, and how a peer is refused ---------------------------------------

        static final int HANDSHAKE_TIME = 10;       // seconds in all, however the bytes trickle in
        static final int MAX_HEAD = 16 * 1024;      // bytes: browsers send 12 kB of cookies
        static final int MAX_HEADERS = 100;         // as common HTTP servers
        static final int SILENCE = 25;              // seconds to a ping; proxies cut at 60
        static final int CLOSE_TIME = 5;            // seconds between our Close and the end of TCP
        static final int GRACE = 1;                 // seconds between a deadline and the cut
        static final int MAX_FRAGMENTS = 100_000;   // after so many no empty one may come: these
                                                    // could come for ever
        static final int PIECE = 64 * 1024;         // bytes written at once: progress is seen
        static final int LEAST_PIECE = 1024;        // bytes that show that a frame makes progress
        static final int SEND_BUFFER = 128 * 1024;  // bytes the system holds for a slow reader
        static final int INPUT = 512;               // bytes of input buffer: most peers are idle
        static final int SLOW_FROM = 16 * 1024;     // unwritten bytes from which a peer is slow
        static final int DEFLATE_FROM = 1024;       // bytes from which compressing pays
        static final int FRAME_COST = 40;           // bytes that a waiting frame takes besides
        static final int SHARED_FROM = 256;         // bytes of a frame that counts only once
        static final long SLICE = 200_000;          // ns of work after which others get their turn

        /// What holds for all connections of a server or client. It is set before the first one.
        static final class Settings {
            int maxMessage = 1 << 20;               // bytes, before and after inflating
            int maxQueue = 8 << 20;                 // unwritten bytes, with which a slow reader
                                                    // is cut off
            Memory memory = new Memory(Runtime.getRuntime().maxMemory() / 4);   // for all together
            boolean deflate = true;
            SSLContext tls;                         // for wss; null: ws (a client: the JDK's own)
            String hint = "";                       // a sentence for who is refused
            Wire wire;                              // who is told of all that travels, or null
            Consumer<String> log = line -> Log.print(printable(line));  // must not wait
        }

        private static final Settings DEFAULT = new Settings();

        /// A peer broke a rule, or is not wanted. The code is an HTTP status until the connection
        /// is open, then a close code (§7.4). The message goes to the peer, the log and the trace.
        static final class Refusal extends IOException {
            final int code;
            Refusal(int code, String message) { super(message); this.code = code; }
        }

        /// Refuses the peer with this code unless the rule is kept. The message says the rule, or
        /// what is wrong.
        static void rule(boolean kept, int code, String message) throws Refusal {
            if (!kept) throw new Refusal(code, message);
        }

        /// A peer costs memory in two ways: by what it has sent, as long as that is kept, and by
        /// what waits for it. One bound holds for both, of all connections together:
        ///
        ///     Share, what a peer has sent ────┐
        ///                                     ├──> Memory: above the limit, who holds most goes
        ///     Outbox, what waits for a peer ──┘
        ///
        /// The count may be a little late, but what is counted is given back.
        static final class Memory {
            final long limit;                                               // bytes
            private final LongAdder used = new LongAdder();                 // bytes
            private WebSocket last;                 // whom giveUpOne() has ended last

            Memory(long limit) { this.limit = limit; }

            long used() { return used.sum(); }

            /// @param bytes that are kept, or, if negative, given back
            void count(long bytes) { used.add(bytes); }

            /// To be called after bytes were kept, but not by who holds an outbox's lock.
            void enforce() {
                if (used.sum() > limit) giveUpOne();
            }

            /// One after the other: two threads would give up two where one is enough, and so would
            /// who does not wait until the memory of the one before is free. How it is done,
            /// giveUp() says.
            private synchronized void giveUpOne() {
                if (last != null && last.givesBack()) return;
                if (used.sum() <= limit) return;
                WebSocket most = null;
                for (WebSocket each : LIVE) {
                    boolean counts = each.settings.memory == this && each.givenUp == null;
                    if (counts && (most == null || each.held() > most.held())) most = each;
                }
                if (most == null) return;
                last = most;
                most.giveUp();
            }
        }

        /// What has come from one peer and is kept: the bytes of its request, then of a message.
        static final class Share {
            private final Memory memory;
            private final AtomicLong bytes = new AtomicLong();

            Share(Memory memory) { this.memory = memory; }

            static Share unbounded() { return new Share(new Memory(Long.MAX_VALUE)); }

            void keep(long more) {
                bytes.addAndGet(more);
                memory.count(more);
                memory.enforce();
            }

            /// By whoever comes first: who reads, or who gives it up.
            void giveBack() {
                if (bytes.get() > 0) memory.count(-bytes.getAndSet(0));
            }
        }

        /// Lines for stderr. Who prints one never waits, even if nobody reads stderr: a thread of
        /// its own writes, and says how many lines there was no room for.
        static final class Log {
            static final int MAX_LINES = 1000;      // that wait to be written
            private static final AtomicLong LEFT_OUT = new AtomicLong();
            private static final ExecutorService WRITER = new ThreadPoolExecutor(1, 1, 0,
                    TimeUnit.SECONDS, new ArrayBlockingQueue<>(MAX_LINES),
                    Thread.ofPlatform().daemon().name("log").factory(),
                    (line, full) -> LEFT_OUT.incrementAndGet());

            static void print(String line) { WRITER.execute(() -> write(line)); }

            private static void write(String line) {
                try {
                    System.err.println(line);
                    long leftOut = LEFT_OUT.getAndSet(0);
                    if (leftOut > 0) System.err.println(leftOut + " lines were left out here");
                } catch (Throwable bug) {           // a broken stderr is no reason to stop
                    LEFT_OUT.incrementAndGet();
                }
            }

            /// Waits until all is written, but not for ever: for the end of a program.
            static void flush() {
                try {
                    WRITER.submit(() -> { }).get(1, TimeUnit.SECONDS);
                } catch (InterruptedException | ExecutionException | TimeoutException stuck) {
                    // then nobody reads stderr
                }
            }
        }

        /// Who is told of all that travels, in its order; must not wait. The number is the
        /// connection's.
        interface Wire {
            /// The head of a request or of its answer.
            void head(long number, boolean in, String text);
            void received(long number, Seen frame);
            void sent(long number, byte[] frame);
            /// @param culprit the first bytes of what broke the rule
            void refused(long number, Refusal refusal, byte[] culprit);
            /// @param unfinished the first bytes of a header that ends too early
            void lost(long number, byte[] unfinished);
        }

        /// For a terminal: what could break a line or steer it, like ESC, becomes a number.
        static String printable(String text) {
            var safe = new StringBuilder();
            for (int c : text.codePoints().toArray())
                switch (Character.getType(c)) {
                    case Character.CONTROL, Character.FORMAT, Character.SURROGATE,
                         Character.PRIVATE_USE, Character.UNASSIGNED, Character.LINE_SEPARATOR,
                         Character.PARAGRAPH_SEPARATOR -> safe.append("\\u{%x}".formatted(c));
                    default -> safe.appendCodePoint(c);
                }
            return safe.toString();
        }

        /// For clients (§5.3). It is made when the first one needs it: that takes 20 ms.
        private static final class Strong {
            static final SecureRandom RANDOM = new SecureRandom();
        }

        private static long seconds(int count) { return count * 1_000_000_000L; }       // in ns

        // ---- Bytes in -------------------------------------------------------------------------

        /// A small buffer over a stream. It takes no lock for a byte, as BufferedInputStream does,
        /// and lets others run.
        static final class Input {
            static final int SHOWN = 10;            // bytes of a header that is refused

            private final InputStream in;
            private final InputStream below;        // the same without TLS, which may hold more
            private final byte[] buffer = new byte[INPUT];
            private int next, end;                  // what is buffered: from next to end
            private final byte[] header = new byte[SHOWN];      // the first bytes since mark()
            private int headerLength;
            private long turn = System.nanoTime();  // when others could run for the last time

            Input(InputStream in, InputStream below) {
                this.in = in;
                this.below = below;
            }

            boolean isEmpty() { return next == end; }

            /// A header begins here.
            void mark() { headerLength = 0; }

            /// What has come since then, for who shows what was wrong.
            byte[] sinceMark() {
                int more = Math.min(SHOWN - headerLength, end - next);
                System.arraycopy(buffer, next, header, headerLength, more);
                return Arrays.copyOf(header, headerLength + more);
            }

            /// @throws EOFException at the end, as all methods that read
            int readByte() throws IOException {
                if (isEmpty()) fill();
                byte value = buffer[next];
                next++;
                if (headerLength < SHOWN) {
                    header[headerLength] = value;
                    headerLength++;
                }
                return value & 0xff;
            }

            /// A number of so many bytes, the highest first: "network byte order" (§5.2).
            long readNumber(int bytes) throws IOException {
                long number = 0;
                for (int i = 0; i < bytes; i++) number = number << 8 | readByte();
                return number;
            }

            /// @return how many bytes were read: at least one, at most `most`
            int read(byte[] target, int at, int most) throws IOException {
                if (isEmpty() && most >= buffer.length) return readSome(target, at, most);
                if (isEmpty()) fill();
                int count = Math.min(most, end - next);
                System.arraycopy(buffer, next, target, at, count);
                next += count;
                return count;
            }

            private void fill() throws IOException {
                next = 0;
                end = 0;
                end = readSome(buffer, 0, buffer.length);
            }

            private int readSome(byte[] target, int at, int most) throws IOException {
                int count = readOrEnd(target, at, most);
                if (count < 0) throw new EOFException();
                return count;
            }

            /// @return -1 at the end
            private int readOrEnd(byte[] target, int at, int most) throws IOException {
                letOthersRun();
                long before = System.nanoTime();
                int count = in.read(target, at, most);
                long after = System.nanoTime();
                boolean waited = after - before > SLICE;
                if (waited) turn = after;           // others could run meanwhile
                return count;
            }

            /// Virtual threads have no time slices: who always finds input would keep a processor
            /// for ever. (Thread.yield() is not enough: it lets nobody in who waits for input.)
            private void letOthersRun() throws IOException {
                if (System.nanoTime() - turn < SLICE) return;
                if (below.available() > 0) LockSupport.parkNanos(1);
                turn = System.nanoTime();
            }

            /// Whether something has come that nobody has read yet.
            boolean isUnread() {
                try {
                    return !isEmpty() || below.available() > 0;
                } catch (IOException ended) {
                    return false;
                }
            }

            /// Reads and forgets all that still comes, until the end.
            void drain() throws IOException {
                while (readOrEnd(buffer, 0, buffer.length) >= 0) continue;
            }
        }

        // ---- The opening handshake (§4) -------------------------------------------------------

        /// §2.1: a token of HTTP, like the name of a header.
        static boolean isToken(String text) {
            return !text.isEmpty() && isMadeOf(text, "!#$%&'*+-.^_`|~");
        }

        /// Whether there are only ASCII letters, digits and these.
        static boolean isMadeOf(String text, String others) {
            for (int i = 0; i < text.length(); i++) {
                char c = text.charAt(i);
                boolean letter = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z';
                boolean digit = c >= '0' && c <= '9';
                if (!letter && !digit && others.indexOf(c) < 0) return false;
            }
            return true;
        }

        static boolean isNumber(String text) {
            for (int i = 0; i < text.length(); i++)
                if (text.charAt(i) < '0' || text.charAt(i) > '9') return false;
            return !text.isEmpty();
        }

        /// What stands before the first frame: a line, and headers whose names have no case. The
        /// values of a header that comes again follow after a comma, as in all of HTTP.
        record Head(String firstLine, Map<String, String> headers) {
            private static final int TLS_HANDSHAKE = 0x16;  // first byte of TLS (RFC 8446 §5.1)

            /// Reads up to the empty line.
            static Head read(Input in, Share share, Consumer<String> show) throws IOException {
                var text = new StringBuilder();     // all that has come
                var lines = new ArrayList<String>();
                try {
                    String line = readLine(in, text, share);
                    while (!line.isEmpty()) {
                        lines.add(line);
                        line = readLine(in, text, share);
                    }
                } finally {
                    show.accept(text.toString());           // be it right or not
                }
                return parse(lines);
            }

            /// Each line ends with CR LF.
            private static String readLine(Input in, StringBuilder text, Share share)
                    throws IOException {
                int start = text.length();
                int last = 0;
                while (last != '\n') {
                    rule(text.length() < MAX_HEAD, 431, "more than " + MAX_HEAD + " bytes");
                    if (text.length() % 1024 == 0) share.keep(1024);
                    int next = in.readByte();
                    rule(next != TLS_HANDSHAKE || text.length() > 0, 400,
                            "this is TLS (https: or wss:), but the port speaks plain text");
                    if (last == '\r' || next == '\n')
                        rule(last == '\r' && next == '\n', 400, "lines end with CR LF");
                    text.append((char) next);
                    last = next;
                }
                return text.substring(start, text.length() - 2);
            }

            private static Head parse(List<String> lines) throws Refusal {
                rule(lines.size() - 1 <= MAX_HEADERS, 431, "more than " + MAX_HEADERS + " headers");
                var headers = new TreeMap<String, String>(String.CASE_INSENSITIVE_ORDER);
                for (int i = 1; i < lines.size(); i++) {
                    String line = lines.get(i);
                    rule(isHeader(line), 400, "a header is not NAME: VALUE (§4.2.1)");
                    int colon = line.indexOf(':');
                    String value = line.substring(colon + 1).strip();
                    headers.merge(line.substring(0, colon), value, (a, b) -> a + "," + b);
                }
                return new Head(lines.isEmpty() ? "" : lines.get(0), headers);
            }

            /// No blank before the colon: isToken sees to that (RFC 9112 §5.1).
            static boolean isHeader(String line) {
                int colon = line.indexOf(':');
                return colon > 0 && isToken(line.substring(0, colon)) && isText(line);
            }

            /// No control characters but TAB. The bytes from 80 to ff may be anything.
            private static boolean isText(String line) {
                for (int i = 0; i < line.length(); i++) {
                    char c = line.charAt(i);
                    if (c < ' ' && c != '\t' || c == 0x7f) return false;
                }
                return true;
            }

            /// @return the value, "" for none
            String header(String name) { return headers.getOrDefault(name, ""); }

            /// The elements of a list; empty ones mean nothing (RFC 9110 §5.6.1).
            List<String> list(String name) {
                var elements = new ArrayList<String>();
                for (String element : header(name).split(","))
                    if (!element.isBlank()) elements.add(element.strip());
                return elements;
            }

            boolean has(String name, String element) {
                for (String one : list(name))
                    if (one.equalsIgnoreCase(element)) return true;
                return false;
            }
        }

        /// The request of a client (§4.1), checked by a server (§4.2.1).
        /// @param path without the query, still percent-encoded
        record Handshake(String method, String path, Head head) {
            static Handshake read(Input in, Share share, Consumer<String> show)
                    throws IOException {
                Head head = Head.read(in, share, show);
                String[] words = head.firstLine.split(" ", -1);
                boolean right = words.length == 3 && isToken(words[0]) && isVersion(words[2]);
                rule(right, 400, "this is not an HTTP/1.1 request (§4.2.1)");
                String target = words[1];
                int pathAt = 0;
                if (target.startsWith("http://") || target.startsWith("https://")) {
                    // A host in the target is used in place of the header Host, which must be there
                    // all the same (RFC 9112 §3.2).
                    rule(hostName(head.header("Host")) != null, 400, "one valid Host is needed");
                    int hostAt = target.indexOf("//") + 2;
                    pathAt = target.indexOf('/', hostAt);
                    if (pathAt < 0) pathAt = target.length();
                    head.headers.put("Host", target.substring(hostAt, pathAt));
                }
                rule(isVisible(target) && target.startsWith("/", pathAt), 400,
                        "this is not an HTTP/1.1 request (§4.2.1)");
                int queryAt = target.indexOf('?', pathAt);
                int pathEnd = queryAt < 0 ? target.length() : queryAt;
                String path = target.substring(pathAt, pathEnd);
                var handshake = new Handshake(words[0], path, head);
                handshake.check();
                return handshake;
            }

            /// Whether it is visible ASCII, without a fragment (§3).
            private static boolean isVisible(String target) {
                for (int i = 0; i < target.length(); i++) {
                    char c = target.charAt(i);
                    if (c <= ' ' || c > '~' || c == '#') return false;
                }
                return true;
            }

            private static boolean isVersion(String word) {
                return word.length() == 8 && word.startsWith("HTTP/1.")
                        && word.charAt(7) >= '1' && word.charAt(7) <= '9';
            }

            /// The conditions of §4.2.1, in the order that gives the most helpful answer.
            private void check() throws Refusal {
                // A header that came twice has a comma now, and so is no valid value.
                String length = head.headers.getOrDefault("Content-Length", "0");
                boolean body = !length.equals("0") || head.headers.containsKey("Transfer-Encoding");
                String version = head.header("Sec-WebSocket-Version");
                rule(method.equals("GET"), 405, "a WebSocket begins with GET (§4.2.1)");
                rule(host() != null, 400, "one valid Host is needed (§4.2.1)");
                rule(head.has("Upgrade", "websocket"), 426,
                        "this port is for WebSockets only (§4.2.1)");
                rule(!body, 400, "a GET has no body (§4.2.1)");
                rule(head.has("Connection", "upgrade"), 400,
                        "Connection: Upgrade is missing (§4.2.1)");
                rule(isKey(head.header("Sec-WebSocket-Key")), 400,
                        "one key of 16 bytes is needed (§4.2.1)");
                rule(!version.isEmpty() && !version.contains(","), 400,
                        "one version is needed (§4.2.1)");
                rule(version.equals("13"), 426, "the only version is 13 (§4.4)");
            }

            /// §4.1: 16 bytes in base64 are 22 characters and two signs that fill up.
            private static boolean isKey(String key) {
                return key.length() == 24 && key.endsWith("==")
                        && isMadeOf(key.substring(0, 22), "+/");
            }

            String host() { return hostName(head.header("Host")); }

            /// @return what it says of the page it comes from, or null
            String origin() { return head.headers.get("Origin"); }

            /// The name by which a client calls this server, without the port; null for none.
            static String hostName(String hostAndPort) {
                int end = hostAndPort.indexOf(':');
                if (hostAndPort.startsWith("[")) end = hostAndPort.indexOf(']') + 1;        // IPv6
                if (end < 0) end = hostAndPort.length();
                String name = hostAndPort.substring(0, end).toLowerCase(Locale.ROOT);
                String port = hostAndPort.substring(end);
                boolean portFits = port.isEmpty() || port.length() <= 6 && port.startsWith(":")
                        && isNumber(port.substring(1));
                boolean nameFits = name.startsWith("[") ? isInBrackets(name)
                        : !name.isEmpty() && name.length() <= 253 && isMadeOf(name, "._-");
                return portFits && nameFits ? name : null;
            }

            /// Whether it may be an IPv6 address: what is not one finds no server of that name.
            private static boolean isInBrackets(String name) {
                for (int i = 1; i < name.length() - 1; i++) {
                    char c = name.charAt(i);
                    if (!HexFormat.isHexDigit(c) && c != ':' && c != '.') return false;
                }
                return name.length() > 3;
            }

            /// §4.2.2: the first subprotocol offered that is known here, or null.
            String choose(List<String> known) throws Refusal {
                List<String> offers = head.list("Sec-WebSocket-Protocol");
                for (String offer : offers)
                    rule(isToken(offer), 400, "a subprotocol is a token (§11.3.4)");
                for (String offer : offers)
                    if (known.contains(offer)) return offer;
                return null;
            }

            /// §4.2.2: the answer after which the connection is a WebSocket.
            String accept(String protocol, String extensions) {
                String text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        + "Connection: Upgrade\r\nSec-WebSocket-Accept: "
                        + acceptValue(head.header("Sec-WebSocket-Key")) + "\r\n";
                if (protocol != null) text += "Sec-WebSocket-Protocol: " + protocol + "\r\n";
                if (extensions != null) text += "Sec-WebSocket-Extensions: " + extensions + "\r\n";
                return text + "\r\n";
            }

            /// §1.3: the key and a text that the RFC fixes, hashed, in base64. Only a server that
            /// knows WebSockets computes this, so the client sees that no other program answers.
            /// It keeps no secret (§10.8).
            static String acceptValue(String key) {
                String both = key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
                try {
                    byte[] sha = MessageDigest.getInstance("SHA-1").digest(both.getBytes(US_ASCII));
                    return Base64.getEncoder().encodeToString(sha);
                } catch (NoSuchAlgorithmException impossible) {     // every JDK has it
                    throw new IllegalStateException(impossible);
                }
            }

            /// An HTTP error in place of the 101. It repeats nothing that the client has sent.
            static String refuse(int status, String body) {
                String more = switch (status) {             // what a status demands
                    case 405 -> "Allow: GET\r\n";
                    case 426 -> "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";      // §4.4
                    default -> "";
                };
                return "HTTP/1.1 " + status + " " + reasonPhrase(status) + "\r\nConnection: close"
                        + (status == 426 ? ", Upgrade" : "") + "\r\n" + more
                        + "Content-Type: text/plain; charset=utf-8\r\nContent-Length: "
                        + body.getBytes(UTF_8).length + "\r\n\r\n" + body;
            }

            private static String reasonPhrase(int status) {
                return switch (status) {
                    case 400 -> "Bad Request";
                    case 403 -> "Forbidden";
                    case 404 -> "Not Found";
                    case 405 -> "Method Not Allowed";
                    case 426 -> "Upgrade Required";
                    case 431 -> "Request Header Fields Too Large";
                    case 503 -> "Service Unavailable";
                    default -> "Internal Server Error";
                };
            }

            // -- The client's side (§4.1) --

            static String newKey() {
                byte[] key = new byte[16];
                Strong.RANDOM.nextBytes(key);
                return Base64.getEncoder().encodeToString(key);
            }

            /// The request that a client sends.
            /// @param target what is asked for: the path, with the query
            static String request(String target, String host, String key, boolean deflate,
                                  List<String> subprotocols, List<String> headers) {
                var lines = new ArrayList<>(List.of("GET " + target + " HTTP/1.1",
                        "Host: " + host, "Connection: Upgrade", "Upgrade: websocket",
                        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key));
                if (!subprotocols.isEmpty())
                    lines.add("Sec-WebSocket-Protocol: " + String.join(", ", subprotocols));
                if (deflate) lines.add("Sec-WebSocket-Extensions: " + WITHOUT_TAKEOVER);
                lines.addAll(headers);
                return String.join("\r\n", lines) + "\r\n\r\n";
            }

            /// §4.1, the numbered list at its end: what a client checks in the answer.
            static void checkAnswer(Head answer, String key, boolean deflate,
                                    List<String> subprotocols) throws Refusal {
                String[] words = answer.firstLine.split(" ", 3);
                boolean http = words.length > 1 && words[0].startsWith("HTTP/1.")
                        && words[1].length() == 3 && isNumber(words[1]);
                rule(http, 400, "this is no answer of HTTP (§4.1): " + printable(answer.firstLine));
                String where = answer.header("Location");
                if (!where.isEmpty()) where = ", Location: " + where;
                rule(words[1].equals("101"), Integer.parseInt(words[1]), "the server answered "
                        + printable(answer.firstLine + where));
                rule(answer.header("Upgrade").equalsIgnoreCase("websocket"), 400,
                        "the answer has no Upgrade: websocket (§4.1)");
                rule(answer.has("Connection", "upgrade"), 400,
                        "the answer has no Connection: Upgrade (§4.1)");
                rule(answer.header("Sec-WebSocket-Accept").equals(acceptValue(key)), 400,
                        "the answer has another accept value than the key demands (§4.1)");
                String protocol = answer.headers.get("Sec-WebSocket-Protocol");
                rule(protocol == null || subprotocols.contains(protocol), 400,
                        "the answer has a subprotocol that was not offered (§4.1)");
                List<String> extensions = answer.list("Sec-WebSocket-Extensions");
                rule(extensions.isEmpty() || deflate && extensions.size() == 1
                        && isAcceptableAnswer(extensions.get(0)), 400,
                        "the answer has an extension that was not offered (§4.1)");
            }
        }

        // ---- Compression: permessage-deflate (RFC 7692) ---------------------------------------
        // DEFLATE replaces text that comes again by a reference to where it was. How far back that
        // may be is the window: 2^bits bytes. "No context takeover" means that each message begins
        // with an empty window. So an idle connection needs none, and one compressed message serves
        // everybody.

        static final String WITHOUT_TAKEOVER = "permessage-deflate; server_no_context_takeover; "
                + "client_no_context_takeover";

        /// RFC 7692 §7.1: the answer to the first offer that is acceptable, or null for none.
        static String agree(List<String> offers) throws Refusal {
            String answer = null;
            for (String offer : offers) {
                List<String> words = parse(offer);      // each must be right, or it is refused
                if (answer != null || !isAcceptable(words)) continue;
                answer = WITHOUT_TAKEOVER;
                if (words.contains("server_max_window_bits=15"))
                    answer += "; server_max_window_bits=15";
            }
            return answer;
        }

        /// `a; b; c="1"` is the list a, b, c=1 (§9.1).
        private static List<String> parse(String extension) throws Refusal {
            var words = new ArrayList<String>();
            for (String part : extension.split(";", -1)) {
                String[] nameAndValue = part.split("=", 2);
                String name = nameAndValue[0].strip();
                String value = nameAndValue.length == 1 ? null : nameAndValue[1].strip();
                if (value != null && value.length() > 1 && value.startsWith("\"")
                        && value.endsWith("\""))
                    value = value.substring(1, value.length() - 1).replace("\\", "");
                rule(isToken(name) && (value == null || isToken(value)), 400,
                        "no list of extensions (§9.1)");
                words.add(value == null ? name : name + "=" + value);
            }
            // The first is the extension's name, and has no value.
            rule(isToken(words.get(0)), 400, "no list of extensions (§9.1)");
            return words;
        }

        /// RFC 7692 §7.1: java.util.zip can't promise a window of less than 15 bits, but reads all.
        private static boolean isAcceptable(List<String> words) {
            return areKnown(words, word -> switch (word) {
                case "server_no_context_takeover", "client_no_context_takeover",
                     "client_max_window_bits", "server_max_window_bits=15" -> true;
                default -> isWindow(word, "client_max_window_bits=");
            });
        }

        /// RFC 7692 §7.1.1.1: a server that takes our offer has to say that it does as we asked.
        private static boolean isAcceptableAnswer(String answer) throws Refusal {
            List<String> words = parse(answer);
            return words.contains("server_no_context_takeover") && areKnown(words, word ->
                    word.equals("server_no_context_takeover")
                    || word.equals("client_no_context_takeover")
                    || isWindow(word, "server_max_window_bits="));
        }

        /// Whether it is permessage-deflate, and each parameter is known and there only once.
        private static boolean areKnown(List<String> words, Predicate<String> isKnown) {
            var names = new HashSet<String>();
            for (String word : words.subList(1, words.size())) {
                boolean again = !names.add(word.split("=")[0]);
                if (again || !isKnown.test(word)) return false;
            }
            return words.get(0).equals("permessage-deflate");
        }

        private static boolean isWindow(String word, String name) {
            return word.startsWith(name) && List.of("8", "9", "10", "11", "12", "13", "14", "15")
                    .contains(word.substring(name.length()));
        }

        /// How long a message can become by being compressed, by anybody. What can't be compressed
        /// grows: a byte takes up to 9 bits, and each block some more.
        private static int mostCompressed(int length) {
            return (int) Math.min(Integer.MAX_VALUE - 64L, length + length / 8L + 64);
        }

        static byte[] deflate(byte[] message) {
            var deflater = new Deflater(Deflater.BEST_SPEED, true);                 // true: raw
            try {
                byte[] out = new byte[mostCompressed(message.length)];
                deflater.setInput(message);
                int size = deflater.deflate(out, 0, out.length, Deflater.SYNC_FLUSH);
                // RFC 7692 §7.2.1: SYNC_FLUSH ends it with 00 00 ff ff, which is left out.
                return Arrays.copyOf(out, size - 4);
            } finally {
                deflater.end();
            }
        }

        /// Data of DEFLATE is a row of blocks; a bit in each says whether it is the last. A sender
        /// need not mark one, and leaves out the final 00 00 ff ff. Here these are put back (RFC
        /// 7692 §7.2.2), and then 01 00 00 ff ff: an empty block that is marked as the last, so
        /// that the Inflater comes to an end.
        private static final byte[] TAIL = {0, 0, -1, -1, 1, 0, 0, -1, -1};

        static byte[] inflate(byte[] message, int length, int limit, Share share)
                throws Refusal {
            rule(length > 0, 1002, "compressed data is never empty (RFC 7692 §7.2.1)");
            byte[] input = Arrays.copyOf(message, length + TAIL.length);
            System.arraycopy(TAIL, 0, input, length, TAIL.length);
            byte[] chunk = new byte[8192];
            var out = new ByteArrayOutputStream(Math.min(length, limit));
            var inflater = new Inflater(true);
            inflater.setInput(input);
            try {
                long turn = System.nanoTime();
                boolean more = true;
                while (more) {
                    // One kilobyte can become many, so others get their turn: see Input.
                    if (System.nanoTime() - turn > SLICE) {
                        LockSupport.parkNanos(1);
                        turn = System.nanoTime();
                    }
                    int count = inflater.inflate(chunk);
                    rule(out.size() + count <= limit, 1009, "inflated, it is too long (§10.4)");
                    share.keep(count);
                    out.write(chunk, 0, count);
                    rule(count > 0 || inflater.finished(), 1007, UNFINISHED);
                    if (inflater.finished()) more = goesOn(inflater, input);
                }
                return out.toByteArray();
            } catch (DataFormatException broken) {
                throw new Refusal(1007, "this is not DEFLATE (RFC 7692 §7.2.2)");
            } finally {
                inflater.end();
            }
        }

        private static final String UNFINISHED = "this DEFLATE has no end (RFC 7692 §7.2.2)";

        /// After a last block. A message may hold several, or end with one: RFC 7692 §7.2.3.4.
        private static boolean goesOn(Inflater inflater, byte[] input) throws Refusal {
            int rest = inflater.getRemaining();         // bytes that were not needed
            if (rest == 0) return false;                // it was the last block of the TAIL
            if (rest == TAIL.length) return false;      // it was the sender's, at the very end
            // If it needed a part of the TAIL, a block was cut short.
            rule(rest > TAIL.length, 1007, UNFINISHED);
            inflater.reset();
            inflater.setInput(input, input.length - rest, rest);
            return true;
        }

        // ---- A frame's header (§5.2) ----------------------------------------------------------
        // The opcode says what a frame carries. TEXT, BINARY and CONTINUATION are data frames: a
        // message is one of them, or several fragments. The first of these is TEXT or BINARY, the
        // others are CONTINUATION; FIN is 1 in the last one only (§5.4). CLOSE, PING and PONG are
        // control frames: each is whole, and may come between two fragments. RSV1 in a message's
        // first frame means that it is compressed (RFC 7692 §6); RSV2 and RSV3 are always 0.

        static final int CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;

        /// @return the RFC's name; null if the opcode means nothing
        static String nameOf(int opcode) {
            return switch (opcode) {
                case CONTINUATION -> "CONTINUATION";
                case TEXT -> "TEXT";
                case BINARY -> "BINARY";
                case CLOSE -> "CLOSE";
                case PING -> "PING";
                case PONG -> "PONG";
                default -> null;
            };
        }

        /// Whose frames are read: a client masks all of its own, a server none (§5.1).
        enum Sender { CLIENT, SERVER, ANY }

        /// What stands before the payload.
        ///
        ///      0 1 2 3 4 5 6 7   0 1 2 3 4 5 6 7
        ///     +-+-+-+-+-------+ +-+-------------+ +----------------+ +----------------+
        ///     |F|R|R|R|opcode | |M| length      | | longer length: | | masking key:   |
        ///     |I|S|S|S|       | |A|  126: 2 more| | 2 or 8 bytes,  | | 4 bytes, if    |
        ///     |N|V|V|V|       | |S|  127: 8 more| | big-endian     | | MASK is 1      |
        ///     +-+1+2+3+-------+ +K+-------------+ +----------------+ +----------------+
        record Header(boolean fin, int rsv, int opcode, boolean masked, int key, long length) {
            static final int FIN = 0x80, MASK = 0x80, RSV = 0x70, RSV1 = 0x40, OPCODE = 0x0f;
            static final int LENGTH = 0x7f, TWO_MORE = 126, EIGHT_MORE = 127;
            private static final int LONGEST = 14;  // bytes of a header

            /// Reads a header and checks, as early as possible, all that it alone can break.
            static Header read(Input in, boolean deflate, Sender sender) throws IOException {
                int first = in.readByte();
                int second = in.readByte();
                boolean fin = (first & FIN) != 0;
                int rsv = first & RSV;
                int opcode = first & OPCODE;
                boolean masked = (second & MASK) != 0;
                int length7 = second & LENGTH;
                rule(nameOf(opcode) != null, 1002, "this opcode means nothing (§5.2)");
                rule(rsv == 0 || rsv == RSV1 && deflate, 1002, "a reserved bit is set (§5.2)");
                rule(rsv == 0 || opcode == TEXT || opcode == BINARY, 1002,
                        "RSV1 is for a message's first frame (RFC 7692 §6.1)");
                rule(masked || sender != Sender.CLIENT, 1002,
                        "a client must mask its frames (§5.1)");
                rule(!masked || sender != Sender.SERVER, 1002,
                        "a server must not mask its frames (§5.1)");
                rule(opcode < CLOSE || fin && length7 < TWO_MORE, 1002,
                        "a control frame is whole and has at most 125 bytes (§5.5)");
                long length = switch (length7) {
                    case TWO_MORE -> in.readNumber(2);
                    case EIGHT_MORE -> in.readNumber(8);
                    default -> length7;
                };
                rule(length >= 0, 1002, "the highest bit of a length is 0 (§5.2)");
                rule(length7 == shortest(length), 1002, "a length has its shortest form (§5.2)");
                int key = masked ? (int) in.readNumber(4) : 0;
                return new Header(fin, rsv, opcode, masked, key, length);
            }

            boolean isControl() { return opcode >= CLOSE; }

            /// What the seven bits say of a length.
            private static int shortest(long length) {
                if (length < TWO_MORE) return (int) length;
                return length < 1 << 16 ? TWO_MORE : EIGHT_MORE;
            }

            /// The header on the wire.
            byte[] encode() {
                var wire = ByteBuffer.allocate(LONGEST);
                int length7 = shortest(length);
                wire.put((byte) ((fin ? FIN : 0) | rsv | opcode));
                wire.put((byte) ((masked ? MASK : 0) | length7));
                if (length7 == TWO_MORE) wire.putShort((short) length);
                if (length7 == EIGHT_MORE) wire.putLong(length);
                if (masked) wire.putInt(key);
                return Arrays.copyOf(wire.array(), wire.position());
            }

            /// A frame on the wire.
            byte[] encode(byte[] payload) {
                byte[] header = encode();
                byte[] wire = Arrays.copyOf(header, header.length + payload.length);
                System.arraycopy(payload, 0, wire, header.length, payload.length);
                if (masked) mask(key, 0, wire, header.length, wire.length);
                return wire;
            }

            /// §5.3: each byte of a payload XOR one of the key's four bytes, in turn. To mask
            /// again is to unmask. It hides nothing. But a script in a page can't choose the bytes
            /// that travel, and so can't make a proxy take them for an HTTP request (§10.3).
            static void maskPlainly(int key, byte[] bytes, int from, int to) {
                for (int i = from; i < to; i++) {
                    int place = (i - from) % 4;
                    byte ofKey = (byte) (key >>> (24 - 8 * place));
                    bytes[i] ^= ofKey;
                }
            }

            /// The same, eight bytes at a time.
            /// @param done how many bytes of the payload came before these
            static void mask(int key, int done, byte[] bytes, int from, int to) {
                int turned = Integer.rotateLeft(key, 8 * (done % 4));   // begins with the next byte
                long twice = (long) turned << 32 | turned & 0xffff_ffffL;
                var eights = ByteBuffer.wrap(bytes);
                int i = from;
                while (i + 8 <= to) {
                    long eight = eights.getLong(i);
                    eights.putLong(i, eight ^ twice);
                    i += 8;
                }
                maskPlainly(turned, bytes, i, to);      // less than eight, so from the key's start
            }
        }

        // ---- Messages (§5.6) ------------------------------------------------------------------

        /// A frame as it travels. However many wait to get it, its bytes are there once.
        static final class Frame {
            final byte[] bytes;
            private final AtomicInteger waiting = new AtomicInteger();

            Frame(byte[] bytes) { this.bytes = bytes; }

            static Frame of(boolean masked, int opcode, int rsv, byte[] payload) {
                int key = masked ? Strong.RANDOM.nextInt() : 0;      // §5.3: new for each frame
                var header = new Header(true, rsv, opcode, masked, key, payload.length);
                return new Frame(header.encode(payload));
            }

            boolean isClose() { return (bytes[0] & Header.OPCODE) == CLOSE; }

            /// One more peer waits for it.
            /// @return bytes of memory that this takes; a long frame's own count once
            int hold() {
                if (isShort()) return bytes.length + FRAME_COST;
                boolean first = waiting.getAndIncrement() == 0;
                return first ? bytes.length + FRAME_COST : FRAME_COST;
            }

            /// A peer has it, or will never get it.
            /// @return bytes of memory that get free by this
            int release() {
                if (isShort()) return bytes.length + FRAME_COST;
                boolean last = waiting.decrementAndGet() == 0;
                return last ? bytes.length + FRAME_COST : FRAME_COST;
            }

            /// To find out how many wait for a short frame would cost more than it takes.
            private boolean isShort() { return bytes.length < SHARED_FROM; }
        }

        /// What programs exchange. It is encoded once, and compressed once, for all it is sent to.
        /// The payload of a text is UTF-8; that of a received one has been checked.
        static final class Message {
            private final boolean isText;
            private final byte[] payload;
            private Frame plain;                    // as a server sends it
            private Frame shortest;                 // the same, compressed if that makes it shorter

            Message(boolean isText, byte[] payload) {
                this.isText = isText;
                this.payload = payload;
            }

            static Message text(String text) { return new Message(true, text.getBytes(UTF_8)); }
            boolean isText() { return isText; }
            byte[] payload() { return payload; }
            String text() { return new String(payload, UTF_8); }

            /// A server's frames serve all to whom it is sent; a client's have a new key each time.
            private synchronized Frame frame(boolean deflate, boolean masked) {
                boolean compress = deflate && payload.length >= DEFLATE_FROM;
                if (masked) return encode(compress, true);
                if (compress) {
                    if (shortest == null) shortest = encode(true, false);
                    return shortest;
                }
                if (plain == null) plain = encode(false, false);
                return plain;
            }

            /// Compressed, if it shall be and gets shorter.
            private Frame encode(boolean compress, boolean masked) {
                int opcode = isText ? TEXT : BINARY;
                if (compress) {
                    byte[] shorter = WebSocket.deflate(payload);
                    if (shorter.length < payload.length)
                        return Frame.of(masked, opcode, Header.RSV1, shorter);
                }
                return Frame.of(masked, opcode, 0, payload);
            }
        }

        /// §8.1: checks UTF-8.
        /// @param whole false: more may follow, the last character may be incomplete
        /// @return how far all is checked: `to`, or where a character begins that `to` cuts in two
        static int checkText(byte[] bytes, int from, int to, boolean whole) throws Refusal {
            var rest = ByteBuffer.wrap(bytes, from, to - from);
            var result = UTF_8.newDecoder().decode(rest, CharBuffer.allocate(to - from), whole);
            // ed a0 to ed bf begin a surrogate; the decoder notices only at the next byte.
            boolean surrogate = rest.remaining() == 2 && bytes[to - 2] == (byte) 0xed
                    && (bytes[to - 1] & 0xff) >= 0xa0;
            rule(!result.isError() && !surrogate, 1007, "text must be UTF-8 (§8.1)");
            return rest.position();
        }

        /// ASCII is UTF-8 without a further look: no byte has its highest bit set.
        private static boolean isAscii(byte[] bytes, int from, int to) {
            int all = 0;
            for (int i = from; i < to; i++) all |= bytes[i];
            return all >= 0;
        }

        /// §7.4: whether a Close may carry this code. 1000: done, 1001: going away, 1002: rule
        /// broken, 1003: wrong kind of data, 1007: no UTF-8, 1008: not allowed, 1009: too long,
        /// 1010: an extension is missing, 1011: our fault, 1012: starting again, 1013: try later,
        /// 1014: a server behind us failed, from 3000 on: yours. Never sent: 1004 (means nothing),
        /// 1005 (no code), 1006 (no Close), 1015 (TLS failed).
        static boolean isLegal(int code) {
            return code >= 1000 && code < 1004 || code > 1006 && code < 1015
                    || code >= 3000 && code < 5000;
        }

        /// The code of a Close with this payload, 1005 if it has none (§7.1.5). Refuses what no
        /// Close may hold.
        static int codeOf(byte[] payload) throws Refusal {
            rule(payload.length != 1, 1002, "a Close has a code of two bytes or none (§5.5.1)");
            if (payload.length == 0) return 1005;
            int code = Short.toUnsignedInt(ByteBuffer.wrap(payload).getShort());
            rule(isLegal(code), 1002, "a Close can't have this code (§7.4)");
            checkText(payload, 2, payload.length, true);
            return code;
        }

        /// A frame that has come, for who shows what travels.
        /// @param fragment its place in the message, from 1
        /// @param inflated the message, if this was the last frame of a compressed one; else null
        /// @param compressedSize bytes that came of the message, so far
        record Seen(Header header, byte[] payload, int fragment, boolean compressed,
                    int compressedSize, byte[] inflated) { }

        /// Reads frames and joins them to messages. It needs no socket: any bytes will do.
        static final class Reader {
            private static final byte[] NOTHING = {};

            private final Input in;
            private final Sender sender;
            private final boolean deflate;          // whether compression was agreed on
            private final int maxMessage;
            private final Share share;              // of the memory
            private final Consumer<Seen> show;      // or null
            private Header header;                  // of the frame that is being read
            // The message that is coming:
            private int opcode;
            private boolean compressed;
            private int fragments;                  // 0: there is none
            private byte[] payload = NOTHING;
            private int arrived;                    // bytes of it that have come
            private int knownAsText;                // bytes of these that are known to be UTF-8
            /// When a header, a frame or one more kilobyte of it was complete (ns). A single byte
            /// does not count, or a frame could take for ever.
            private volatile long heard = System.nanoTime();

            Reader(Input in, Sender sender, boolean deflate, int maxMessage, Share share,
                   Consumer<Seen> show) {
                this.in = in;
                this.sender = sender;
                this.deflate = deflate;
                this.maxMessage = maxMessage;
                this.share = share;
                this.show = show;
            }

            /// Waits for a frame. The message before is not needed any more.
            Header readHeader() throws IOException {
                if (fragments == 0) share.giveBack();
                header = null;
                in.mark();
                header = Header.read(in, deflate, sender);
                heard = System.nanoTime();
                return header;
            }

            /// The payload of a control frame: at most 125 bytes (§5.5).
            byte[] readControl() throws IOException {
                byte[] bytes = new byte[(int) header.length];
                int done = 0;
                while (done < bytes.length) done += in.read(bytes, done, bytes.length - done);
                if (header.masked) Header.mask(header.key, 0, bytes, 0, bytes.length);
                heard = System.nanoTime();
                if (show != null) show.accept(new Seen(header, bytes, 0, false, 0, null));
                return bytes;
            }

            /// Joins a data frame to the message that is coming (§5.4).
            /// @return the message if this was its last frame, else null
            Message readData() throws IOException {
                int start = arrived;
                byte[] whole = null;
                try {
                    beginFrame();
                    readPayload((int) header.length);
                    if (header.fin) whole = wholeMessage();
                } finally {
                    if (show != null) tell(start, compressed ? whole : null);
                }
                if (whole == null) return null;
                payload = NOTHING;
                arrived = 0;
                knownAsText = 0;
                fragments = 0;
                return new Message(opcode == TEXT, whole);
            }

            private void tell(int start, byte[] inflated) {
                byte[] bytes = Arrays.copyOfRange(payload, start, arrived);
                show.accept(new Seen(header, bytes, fragments, compressed, arrived, inflated));
            }

            private void beginFrame() throws Refusal {
                boolean first = header.opcode != CONTINUATION;
                rule(first || fragments > 0, 1002, "there is no message to continue (§5.4)");
                rule(!first || fragments == 0, 1002, "the message before has not ended (§5.4)");
                if (first) {
                    opcode = header.opcode;
                    compressed = header.rsv != 0;
                }
                fragments++;
                int most = compressed ? mostCompressed(maxMessage) : maxMessage;
                rule(header.length <= most - arrived, 1009, "too long (§10.4)");
                rule(header.length > 0 || fragments <= MAX_FRAGMENTS, 1008,
                        "too many fragments (§10.4)");
            }

            /// Checks text while it comes, so that a bad byte ends it at once.
            private void readPayload(int size) throws IOException {
                int done = 0;
                while (done < size) {
                    int from = arrived;
                    makeRoom(size - done);
                    int most = Math.min(size - done, payload.length - arrived);
                    int count = in.read(payload, arrived, most);
                    if (header.masked) Header.mask(header.key, done, payload, from, from + count);
                    boolean oneMore = (done + count) / LEAST_PIECE > done / LEAST_PIECE;
                    if (oneMore) heard = System.nanoTime();
                    arrived += count;
                    done += count;
                    if (opcode == TEXT && !compressed) checkArrived(from);
                }
                heard = System.nanoTime();
            }

            /// No length is trusted: the array grows with what has come. It doubles, so all
            /// copying together is linear.
            private void makeRoom(int rest) {
                if (arrived < payload.length) return;
                int step = Math.max(arrived, LEAST_PIECE);
                if (header.fin) step = Math.min(step, rest);
                if (arrived > 0) share.keep(step);          // the first kilobyte is not counted
                payload = Arrays.copyOf(payload, arrived + step);
            }

            private void checkArrived(int from) throws Refusal {
                boolean plain = knownAsText == from && isAscii(payload, from, arrived);
                knownAsText = plain ? arrived : checkText(payload, knownAsText, arrived, false);
            }

            private byte[] wholeMessage() throws Refusal {
                byte[] whole = payload;
                if (compressed) whole = inflate(payload, arrived, maxMessage, share);
                else if (arrived < payload.length) whole = Arrays.copyOf(payload, arrived);
                if (opcode == TEXT && knownAsText < whole.length)
                    checkText(whole, knownAsText, whole.length, true);
                return whole;
            }

            /// Nothing more will be read.
            void end() { payload = NOTHING; }

            /// What has come of a header that could not be read; nothing if it was read.
            byte[] culprit() { return header == null ? in.sinceMark() : NOTHING; }
        }

        // ---- The connection -------------------------------------------------------------------

        /// As a browser's readyState.
        ///
        ///     CONNECTING ── open(), connect() ──> OPEN ── sendClose(), or a write is lost ──┐
        ///         │                                 │                                       v
        ///         │ refused                         │ finish(): the peer's Close,        CLOSING
        ///         │                                 │ a broken rule, the peer's end         │
        ///         └───────────────> CLOSED <────────┴───────────────────────────────────────┘
        ///
        /// In CLOSING nothing new is taken to be sent; what waits still goes out, and the peer's
        /// Close is waited for. In CLOSED nothing more is heard, either; hangUp() ends TCP. From
        /// any state cutOff() leads there.
        enum State { CONNECTING, OPEN, CLOSING, CLOSED }

        /// Decides about a handshake: refuses with an HTTP status, or names subprotocols it knows.
        interface Welcome { List<String> of(Handshake handshake) throws IOException; }

        /// What is done with an open connection; afterwards it is closed.
        interface Handler { void handle(WebSocket webSocket) throws IOException; }

        private static final AtomicLong COUNT = new AtomicLong();
        private static final Set<WebSocket> LIVE = ConcurrentHashMap.newKeySet();

        private final long number = COUNT.incrementAndGet();        // in log and trace
        private final Socket socket;
        private final Settings settings;
        private final boolean isClient;                 // this side
        private final Outbox outbox = new Outbox();     // its lock guards state
        private final Share share;                      // of the memory, for what comes
        private Socket channel;                         // the socket, or TLS over it
        private Input in;
        private OutputStream out;
        private Reader reader;
        private volatile Thread receiver;               // the thread that receives
        private String path, protocol, closeReason = "";
        private int closeCode = 1006;                   // §7.1.5: until a Close comes
        private boolean deflating;
        private boolean pinged;                         // since something was heard
        private long pingedAt;                          // ns: when the ping was on its way
        private volatile Refusal givenUp;               // why the watcher or another refuses it
        private volatile State state = State.CONNECTING;
        /// When the handshake, or later the end of TCP, is due.
        private volatile long deadline = System.nanoTime() + seconds(HANDSHAKE_TIME);

        WebSocket(Socket socket, Settings settings) { this(socket, settings, false); }

        private WebSocket(Socket socket, Settings settings, boolean isClient) {
            this.socket = socket;
            this.settings = settings;
            this.isClient = isClient;
            share = new Share(settings.memory);
            channel = socket;
        }

        /// A state only advances; add() relies on the lock. From OPEN on, the end has a deadline.
        private void advance(State next) {
            synchronized (outbox) {
                if (next.compareTo(state) <= 0) return;
                if (state == State.OPEN) deadline = System.nanoTime() + seconds(CLOSE_TIME);
                state = next;
            }
        }

        // ---- Bytes out ------------------------------------------------------------------------

        /// Frames on their way to one peer. Others' threads never wait: one of the Writers writes
        /// all that has piled up. Who lets too much pile up is cut off: to wait would hold up
        /// others, to leave a message out would be a lie.
        private final class Outbox {
            private List<Frame> waiting = List.of();
            private Frame pong;                     // the answer to the latest ping, if it waits
            private boolean writing;                // a thread is writing, or will: never two
            private volatile long queued;           // bytes of all that waits
            private volatile long left;             // bytes of the batch that is being written
            private volatile long progress = System.nanoTime();     // when some were last written
            private volatile Thread sleeper;        // waits in await()

            long unwritten() { return queued + left; }          // bytes

            /// @param mayWriteHere whether the thread that receives may write it itself
            /// @return false if nothing can be sent any more
            boolean add(Frame frame, boolean mayWriteHere) {
                boolean full;
                boolean starts = false;
                synchronized (this) {
                    if (state != State.OPEN) return false;
                    full = unwritten() > settings.maxQueue;
                    if (!full) starts = enqueue(frame);
                }
                if (full) {
                    cutOff("reads too slowly: " + unwritten() + " bytes wait");
                    return false;
                }
                if (unwritten() > SLOW_FROM) settings.memory.enforce();
                if (starts) startWriting(mayWriteHere);
                return true;
            }

            /// §5.5.3: of several pings only the latest needs its pong. Who lets more than some
            /// pongs pile up gets that one; so nobody has to wait because of pings.
            void answerPing(Frame answer) {
                boolean starts = false;
                synchronized (this) {
                    if (state != State.OPEN) return;
                    boolean piles = unwritten() > SLOW_FROM;
                    pong = piles ? answer : null;
                    if (!piles) starts = enqueue(answer);
                }
                if (starts) startWriting(!isClient);    // a client's reader waits for nobody
            }

            /// @return whether somebody has to start writing
            private boolean enqueue(Frame frame) {
                if (frame.isClose()) {                  // §5.5.1: nothing follows, no pong either
                    advance(State.CLOSING);
                    pong = null;
                }
                if (!writing) progress = System.nanoTime();
                push(frame);
                boolean starts = !writing;
                writing = true;
                return starts;
            }

            private void push(Frame frame) {
                if (waiting.isEmpty()) waiting = new ArrayList<>(4);
                waiting.add(frame);
                queued += frame.bytes.length;
                settings.memory.count(frame.hold());
            }

            /// Writes all that waits, or has it written. The thread that receives writes itself,
            /// which is quickest, unless more input waits: the answers to all of it can share one
            /// system call.
            void startWriting(boolean mayWriteHere) {
                boolean here = mayWriteHere && Thread.currentThread() == receiver && in.isEmpty();
                boolean more = true;
                if (here) more = writeBatch();
                if (more) Writers.call(this);
            }

            /// No frame goes before the answer to the handshake. So this claims that a thread is
            /// writing, and frames pile up until startWriting().
            synchronized void holdBack() { writing = true; }

            /// @return whether more has piled up meanwhile
            private boolean writeBatch() {
                List<Frame> batch = take();
                try {
                    if (settings.wire != null)
                        for (Frame frame : batch) settings.wire.sent(number, frame.bytes);
                    write(batch);
                } catch (IOException lost) {
                    writingFailed();
                } catch (Throwable bug) {
                    cutOff(bug.toString());
                }
                return settle(batch);
            }

            /// Nothing can be written any more. But a Close may have come, and wait to be read.
            private void writingFailed() {
                advance(State.CLOSING);
                drop();
            }

            /// All that waits is written next.
            private synchronized List<Frame> take() {
                if (pong != null) push(pong);
                pong = null;
                List<Frame> batch = waiting;
                waiting = List.of();
                left = queued;
                queued = 0;
                return batch;
            }

            /// Short frames share a system call.
            private void write(List<Frame> batch) throws IOException {
                var joined = new ByteArrayOutputStream((int) Math.min(left, PIECE));
                for (Frame frame : batch) {
                    if (joined.size() + frame.bytes.length > PIECE) {
                        write(joined.toByteArray());
                        joined.reset();
                    }
                    if (frame.bytes.length > PIECE) write(frame.bytes);
                    else joined.writeBytes(frame.bytes);
                }
                write(joined.toByteArray());
            }

            /// In pieces: after each it can be seen that the peer reads.
            private void write(byte[] bytes) throws IOException {
                int done = 0;
                while (done < bytes.length) {
                    int count = Math.min(bytes.length - done, PIECE);
                    out.write(bytes, done, count);
                    done += count;
                    left -= count;                  // by the one thread that writes
                    progress = System.nanoTime();
                    LockSupport.unpark(sleeper);
                }
            }

            /// The batch is written, or lost. @return whether there is more to write
            private synchronized boolean settle(List<Frame> batch) {
                release(batch);
                left = 0;                           // so nothing is unwritten until it is free
                LockSupport.unpark(sleeper);
                writing = !waiting.isEmpty() || pong != null;
                return writing;
            }

            private void release(List<Frame> frames) {
                long bytes = 0;
                for (Frame frame : frames) bytes += frame.release();
                settings.memory.count(-bytes);
            }

            /// Forgets what waits: nothing more can be sent.
            synchronized void drop() {
                release(waiting);
                waiting = List.of();
                pong = null;
                queued = 0;
                LockSupport.unpark(sleeper);
            }

            /// Waits until at most `most` bytes are unwritten: who doesn't read isn't read from.
            /// It ends, since the watcher cuts off who takes nothing.
            void await(long most) {
                if (unwritten() <= most) return;
                boolean interrupted = false;
                sleeper = Thread.currentThread();
                while (unwritten() > most) {
                    LockSupport.park(this);
                    if (Thread.interrupted()) interrupted = true;
                }
                sleeper = null;
                if (interrupted) Thread.currentThread().interrupt();
            }
        }

        /// Virtual threads that write for all outboxes: for a line to a thousand people some are
        /// enough. Before a writer writes, it starts another. If the peer is quick, the first goes
        /// on with the next outbox, and the other soon ends. If the peer is slow, the first waits,
        /// and the other serves all who are left.
        private static final class Writers {
            private static final Queue<Outbox> READY = new ConcurrentLinkedQueue<>();
            private static final AtomicBoolean STARTING = new AtomicBoolean();  // one; it runs soon

            static void call(Outbox outbox) {
                READY.add(outbox);
                startAnother();
            }

            private static void startAnother() {
                if (READY.isEmpty() || !STARTING.compareAndSet(false, true)) return;
                try {
                    Thread.startVirtualThread(Writers::write);
                } catch (Throwable noMemory) {
                    STARTING.set(false);
                    throw noMemory;
                }
            }

            /// Ends after a while, so that others can run: see Input.
            private static void write() {
                STARTING.set(false);
                long start = System.nanoTime();
                try {
                    while (!READY.isEmpty() && System.nanoTime() - start < SLICE) writeNext();
                } finally {
                    startAnother();
                }
            }

            private static void writeNext() {
                Outbox outbox = READY.poll();
                if (outbox == null) return;             // another was quicker
                startAnother();
                boolean more = outbox.writeBatch();
                if (more) READY.add(outbox);
            }
        }

        // ---- The life of a connection ---------------------------------------------------------

        /// Serves one connection from its first byte to its last. Pages of other hosts may not
        /// connect: they would act in the name of whoever looks at them (§10.2). Under which names
        /// it is called, a server has to check itself: strangers can let theirs point here.
        static void serve(Socket socket, Handler handler) {
            new WebSocket(socket, DEFAULT).serve(handshake -> {
                String origin = handshake.origin();
                rule(origin == null || isOfHost(origin, handshake.host()), 403,
                        "a page of another host, or of none like a file, may not connect (§10.2)");
                return List.of();
            }, handler);
        }

        /// Whether it is the origin of a page at any port of this host.
        private static boolean isOfHost(String origin, String host) {
            int start = origin.indexOf("://") + 3;
            boolean http = origin.startsWith("http://") || origin.startsWith("https://");
            return http && host.equals(Handshake.hostName(origin.substring(start)));
        }

        void serve(Welcome welcome, Handler handler) {
            begin();
            try {
                open(welcome);
                handler.handle(this);
                close();
            } catch (Refusal refusal) {
                fail(refusal);
            } catch (IOException lost) {                // the socket's, or the handler's
                if (!(lost instanceof EOFException)) log(lost.toString());
                if (givenUp != null) fail(givenUp);
                else if (state == State.OPEN) fail(new Refusal(1011, PROBLEM));
            } catch (Throwable bug) {
                log(bug.toString());
                fail(new Refusal(state == State.CONNECTING ? 500 : 1011, PROBLEM));
            } finally {
                hangUp();
            }
        }

        private static final String PROBLEM = "the server has a problem (§7.4.1)";

        private void begin() {
            LIVE.add(this);
            receiver = Thread.currentThread();
        }

        private void open(Welcome welcome) throws IOException {
            if (settings.tls != null)                   // §4.2.2: TLS first; null: as its server
                channel = settings.tls.getSocketFactory().createSocket(socket, null, true);
            connectStreams();
            Handshake handshake = Handshake.read(in, share, text -> show(true, text));
            path = handshake.path();
            protocol = handshake.choose(welcome.of(handshake));
            String extensions = agree(handshake.head.list("Sec-WebSocket-Extensions"));
            deflating = settings.deflate && extensions != null;
            outbox.holdBack();
            becomeOpen();                               // before the client takes it for open
            try {
                write(handshake.accept(protocol, deflating ? extensions : null));
            } catch (IOException gone) {
                cutOff(null);
                throw gone;
            }
            outbox.startWriting(true);                  // what has piled up meanwhile
        }

        private void connectStreams() throws IOException {
            socket.setTcpNoDelay(true);
            socket.setSendBufferSize(SEND_BUFFER);
            in = new Input(channel.getInputStream(), socket.getInputStream());
            out = channel.getOutputStream();
        }

        private void becomeOpen() throws IOException {
            Consumer<Seen> show = null;
            if (settings.wire != null) show = frame -> settings.wire.received(number, frame);
            share.giveBack();
            Sender peer = isClient ? Sender.SERVER : Sender.CLIENT;
            reader = new Reader(in, peer, deflating, settings.maxMessage, share, show);
            advance(State.OPEN);
            if (state == State.CLOSED) throw new EOFException();        // cut off meanwhile
        }

        /// The head of a request or of an answer.
        private void write(String head) throws IOException {
            show(false, head);
            out.write(head.getBytes(UTF_8));
        }

        private void show(boolean incoming, String head) {
            if (settings.wire != null) settings.wire.head(number, incoming, head);
        }

        /// Connects as a client (§4.1), within the time for a handshake.
        /// @param uri ws://host[:port][/path][?query], or wss: then the host's name is verified
        /// @throws Refusal with the HTTP status, if the server answers anything but 101; with 400,
        ///     if that answer breaks a rule
        /// @throws IOException if it can't be reached, or does not answer
        /// @throws IllegalArgumentException if what it would be asked breaks a rule
        static WebSocket connect(URI uri, String... subprotocols) throws IOException {
            return connect(uri, DEFAULT, List.of(), List.of(subprotocols));
        }

        /// @param headers lines of the request, like `Origin: https://chat.example`
        static WebSocket connect(URI uri, Settings settings, List<String> headers,
                                 List<String> subprotocols) throws IOException {
            URI ascii = URI.create(uri.toASCIIString());
            check(ascii, headers, subprotocols);
            long start = System.nanoTime();
            var webSocket = new WebSocket(dial(ascii), settings, true);
            webSocket.deadline = start + seconds(HANDSHAKE_TIME);
            webSocket.begin();
            try {
                webSocket.ask(ascii, headers, subprotocols);
                return webSocket;
            } catch (IOException | RuntimeException failure) {
                webSocket.cutOff(null);
                throw failure;
            }
        }

        private void ask(URI uri, List<String> headers, List<String> subprotocols)
                throws IOException {
            path = uri.getRawPath().isEmpty() ? "/" : uri.getRawPath();
            String target = uri.getRawQuery() == null ? path : path + "?" + uri.getRawQuery();
            String key = Handshake.newKey();
            try {
                if (isSecure(uri))
                    channel = secured(socket, settings.tls, uri.getHost(), portOf(uri));
                connectStreams();
                write(Handshake.request(target, uri.getRawAuthority(), key, settings.deflate,
                        subprotocols, headers));
                Head answer = Head.read(in, share, text -> show(true, text));
                Handshake.checkAnswer(answer, key, settings.deflate, subprotocols);
                protocol = answer.headers.get("Sec-WebSocket-Protocol");
                deflating = !answer.list("Sec-WebSocket-Extensions").isEmpty();
                becomeOpen();
            } catch (Refusal refusal) {
                traceRefusal(refusal);
                throw refusal;
            } catch (IOException failure) {             // which the watcher may have caused
                boolean late = System.nanoTime() - deadline >= 0;
                if (late) throw new SocketTimeoutException("no whole answer to the handshake "
                        + "within " + HANDSHAKE_TIME + " s");
                if (!(failure instanceof EOFException)) throw failure;
                throw new EOFException("the server hung up before its answer was complete");
            }
        }

        private static boolean isSecure(URI uri) { return uri.getScheme().equalsIgnoreCase("wss"); }

        private static int portOf(URI uri) {
            int usual = isSecure(uri) ? 443 : 80;
            return uri.getPort() < 0 ? usual : uri.getPort();
        }

        /// A name can have several addresses, of IPv6 and IPv4. All share the time.
        private static Socket dial(URI uri) throws IOException {
            InetAddress[] addresses = InetAddress.getAllByName(uri.getHost());
            int time = HANDSHAKE_TIME * 1000 / addresses.length;
            var failure = new IOException("can't be reached");
            for (InetAddress address : addresses) {
                var socket = new Socket();
                try {
                    socket.connect(new InetSocketAddress(address, portOf(uri)), time);
                    return socket;
                } catch (IOException unreachable) {
                    socket.close();
                    failure = unreachable;
                }
            }
            throw failure;
        }

        /// What stands in a request must not be able to end its line.
        private static void check(URI uri, List<String> headers, List<String> subprotocols) {
            String scheme = String.valueOf(uri.getScheme()).toLowerCase(Locale.ROOT);
            boolean right = scheme.equals("ws") || scheme.equals("wss");
            if (!right || uri.getHost() == null || uri.getUserInfo() != null
                    || uri.getFragment() != null)
                throw new IllegalArgumentException("the URL of a WebSocket is "
                        + "ws[s]://HOST[:PORT][/PATH][?QUERY] (§3)");
            for (String header : headers)
                if (!Head.isHeader(header))
                    throw new IllegalArgumentException("not NAME: VALUE: " + printable(header));
            for (String each : subprotocols)
                if (!isToken(each) || Collections.frequency(subprotocols, each) > 1)        // §4.1
                    throw new IllegalArgumentException("a subprotocol is a token, and offered "
                            + "once: " + printable(each));
        }

        /// TLS over a socket, for a client: the server has to show that the host's name is its own.
        /// @param tls null means the JDK's own
        static Socket secured(Socket socket, SSLContext tls, String host, int port)
                throws IOException {
            SSLSocketFactory factory = tls == null
                    ? (SSLSocketFactory) SSLSocketFactory.getDefault() : tls.getSocketFactory();
            var secured = (SSLSocket) factory.createSocket(socket, host, port, true);
            SSLParameters parameters = secured.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            secured.setSSLParameters(parameters);
            return secured;
        }

        /// Waits for the next message, and answers pings and a Close meanwhile.
        /// @return null when the connection has ended: closeCode() tells how
        Message receive() throws Refusal {
            receiver = Thread.currentThread();
            try {
                while (state != State.CLOSED) {
                    // A client waits here for nobody: its server may wait until it is read from.
                    if (!isClient) outbox.await(settings.maxQueue / 2);
                    Header header = reader.readHeader();
                    if (header.isControl()) control(header.opcode, reader.readControl());
                    else {
                        Message message = reader.readData();
                        if (message != null && isHeard()) return message;
                    }
                }
            } catch (IOException failure) {
                Refusal refusal = failure instanceof Refusal broken ? broken : givenUp;
                if (refusal != null) {
                    fail(refusal);
                    throw refusal;
                }
                if (settings.wire != null) settings.wire.lost(number, culprit());
                finish(1000, "");                       // the peer may still hear what we send
            } finally {
                if (isClient && state == State.CLOSED) hangUp();
            }
            return null;
        }

        /// After its own Close a server hears nothing more, a client what was on its way (§1.4).
        private boolean isHeard() { return state == State.OPEN || isClient; }

        private void control(int opcode, byte[] payload) throws Refusal {
            if (opcode == PING)                         // §5.5.2; a pong needs no answer (§5.5.3)
                outbox.answerPing(controlFrame(PONG, payload));
            if (opcode != CLOSE) return;
            closeCode = codeOf(payload);
            if (payload.length > 2) closeReason = new String(payload, 2, payload.length - 2, UTF_8);
            finish(closeCode, "");                      // §5.5.1: the same; then TCP is closed
        }

        /// Sends a message, from any thread. Only the one that receives may have to wait for it.
        /// @return false if nothing can be sent any more
        boolean send(Message message) { return outbox.add(frame(message), true); }

        /// Sends a message, but never waits: for who holds a lock, or speaks to many.
        boolean post(Message message) { return outbox.add(frame(message), false); }

        private Frame frame(Message message) { return message.frame(deflating, isClient); }

        private Frame controlFrame(int opcode, byte[] payload) {
            return Frame.of(isClient, opcode, 0, payload);
        }

        /// §5.5.2
        void ping() { outbox.add(controlFrame(PING, new byte[0]), true); }

        /// Begins to close (§7.1.2); receive() returns null when the peer has answered.
        void close(int code, String reason) {
            if (!isLegal(code)) throw new IllegalArgumentException("no close code: " + code);
            if (state == State.CONNECTING) cutOff(null);                        // §7.2.2
            sendClose(code, reason);
        }

        /// Closes with 1000 if nobody has closed yet, and waits for the end: for the thread that
        /// receives, or when no thread does.
        @Override
        public void close() throws Refusal {
            close(1000, "");
            while (receive() != null) continue;
        }

        /// Sends a Close, unless one was sent: the outbox takes nothing after it (§5.5.1). The
        /// reason is cut between two characters to fit in 125 bytes (§5.5).
        private void sendClose(int code, String reason) {
            var payload = ByteBuffer.allocate(125);
            if (code != 1005) payload.putShort((short) code);       // 1005: no code (§7.1.5)
            UTF_8.newEncoder().encode(CharBuffer.wrap(reason), payload, true);
            byte[] cut = Arrays.copyOf(payload.array(), payload.position());
            outbox.add(controlFrame(CLOSE, cut), true);
        }

        /// Nothing more is sent or heard; a Close goes first, if none has gone.
        private void finish(int code, String reason) {
            sendClose(code, reason);
            advance(State.CLOSED);
        }

        State state() { return state; }
        String path() { return path; }              // of the request, still percent-encoded
        String protocol() { return protocol; }      // the subprotocol agreed on, or null
        String closeReason() { return closeReason; }
        int closeCode() { return closeCode; }       // §7.1.5: 1005: of none, 1006: without a Close
        long number() { return number; }            // in the log and in the trace

        long unwritten() { return outbox.unwritten(); }       // bytes that wait for this peer

        /// Whether so much waits for this peer that who talks should wait, and the peer is reading.
        boolean isBehind() {
            return outbox.unwritten() > settings.maxQueue / 2
                    && System.nanoTime() - outbox.progress < seconds(1);
        }

        /// The one place where a failure is answered. Nothing more of the peer is heard (§7.1.7).
        private void fail(Refusal refusal) {
            if (state == State.CLOSED) return;
            log(refusal.code + " " + refusal.getMessage());
            traceRefusal(refusal);
            // An open connection is refused with a close code. A status can only come from another
            // connection, which the handler has opened as a client.
            if (state == State.CONNECTING) refuse(refusal);
            else if (isLegal(refusal.code)) finish(refusal.code, refusal.getMessage());
            else finish(1011, PROBLEM);
        }

        private void refuse(Refusal refusal) {
            String body = refusal.getMessage() + ". " + settings.hint + "\n";
            deadline = System.nanoTime() + seconds(CLOSE_TIME);         // time to read it
            try {
                write(Handshake.refuse(refusal.code, body));
                advance(State.CLOSED);
            } catch (IOException gone) {
                cutOff(null);
            }
        }

        private void traceRefusal(Refusal refusal) {
            if (settings.wire != null) settings.wire.refused(number, refusal, culprit());
        }

        private byte[] culprit() { return reader == null ? new byte[0] : reader.culprit(); }

        private void log(String what) { settings.log.accept("#" + number + " " + what); }

        /// Ends TCP (§7.1.1). A server closes its half first and reads until the peer has closed,
        /// too: closing with unread input is a reset, and that can overtake the Close frame. A
        /// client waits for the server to begin. (For TLS, each half has an end of its own.)
        private void hangUp() {
            try (socket) {
                advance(State.CLOSED);
                outbox.await(0);
                if (reader != null) reader.end();
                share.giveBack();
                if (!isClient) channel.shutdownOutput();
                if (in != null) in.drain();
                if (isClient) channel.shutdownOutput();
            } catch (IOException | UnsupportedOperationException gone) {
                // then there is nothing left to end
            } finally {
                forgetAll();
            }
        }

        private void forgetAll() {
            LIVE.remove(this);
            share.giveBack();
        }

        /// Ends the connection at once, without a Close: a reset, which drops what is unsent. The
        /// socket goes first: that wakes who waits in a read or a write.
        /// @param why for the log, or null
        void cutOff(String why) {
            if (why != null) log(why);                  // before anybody sees the end
            forgetAll();                                // there is nothing more to watch
            try (socket) {
                socket.setSoLinger(true, 0);
            } catch (IOException closed) {
                // that is what is wanted
            }
            advance(State.CLOSED);
            outbox.drop();
        }

        private long held() { return outbox.unwritten() + share.bytes.get(); }      // bytes

        /// Whether it was cut off, but a writer has still to find that out, and to free its frames.
        private boolean givesBack() { return socket.isClosed() && outbox.unwritten() > 0; }

        /// When memory is short. Who is slow is cut off; who sends much can still be told why.
        private void giveUp() {
            String why = "the memory of the server is full (§7.4.1)";
            share.giveBack();
            if (outbox.unwritten() > SLOW_FROM) {
                cutOff(why);
                return;
            }
            givenUp = new Refusal(state == State.CONNECTING ? 503 : 1013, why);
            endInput();
        }

        /// For the thread that receives, this is as if the peer had closed its half.
        private void endInput() {
            try {
                socket.shutdownInput();
            } catch (IOException gone) {
                cutOff(null);
            }
        }

        // ---- Who watches over time ------------------------------------------------------------

        // One thread looks after all: deadlines in reads cost more, and don't see who never reads.
        // It is no virtual thread: these may have to wait for each other.
        static { Thread.ofPlatform().daemon().name("watch").start(WebSocket::watch); }

        private static void watch() {
            while (true) {
                try {
                    lookAfterAll();
                } catch (Throwable bug) {
                    // out of memory, say: there is another second
                }
                LockSupport.parkNanos(seconds(1));
            }
        }

        private static void lookAfterAll() {
            long now = System.nanoTime();
            for (WebSocket webSocket : LIVE)
                try {
                    webSocket.settings.memory.enforce();
                    webSocket.look(now);
                } catch (Throwable bug) {           // bad luck of this one
                    webSocket.cutOff(null);
                }
        }

        private void look(long now) {
            if (state == State.OPEN) lookForLife(now);
            else lookAtDeadline(now);
        }

        /// Who handshakes or closes has a deadline. After that its input ends, so that its own
        /// thread ends it in order; a second later it is cut off. Who closes, and still takes what
        /// waits for it, has more time.
        private void lookAtDeadline(long now) {
            long late = now - deadline;
            long stuck = now - outbox.progress - seconds(CLOSE_TIME);
            if (state != State.CONNECTING) late = Math.min(late, stuck);    // both have run out
            if (late > seconds(GRACE)) cutOff("gave no sign of life");
            else if (late > 0) endInput();
        }

        /// A sign of life is a header, a frame, or a kilobyte of one. Who gives none for a while is
        /// pinged. Who takes what waits for it is alive: the ping may be behind all that.
        private void lookForLife(long now) {
            boolean waits = outbox.unwritten() > 0;
            boolean stuck = waits && now - outbox.progress > seconds(2 * SILENCE);
            boolean silent = now - reader.heard > seconds(SILENCE) && !in.isUnread();
            if (stuck) {
                cutOff("gave no sign of life");
            } else if (!silent) {
                pinged = false;
            } else if (!pinged) {
                pinged = true;
                pingedAt = now;
                ping();
            } else if (waits) {
                pingedAt = now;
            } else if (now - pingedAt > seconds(SILENCE)) {
                cutOff("gave no sign of life");
            }
        }
    }

    /// What travels, explained: for the terminal, for the page's pane, for --explain. It knows the
    /// frames of WebSocket, and nothing of the chat.
    static final class Explained implements WebSocket.Wire {
        static final int WIDTH = 100;               // columns of a line on the terminal
        static final int TEXT_SHOWN = 36;           // characters of a payload
        static final int MAX_EXPLAINED = 1 << 30;   // bytes of a message, when there is no server

        /// One row of a frame: its bytes in hex, their name and what they mean; or, without a name,
        /// a line of a handshake.
        record Row(String bytes, String name, String meaning) {
            /// As the terminal shows it; with colours, the bytes of a frame are cyan.
            String text(boolean coloured) {
                String form = name.isEmpty() ? "    %-49s%s  %s" : "    %-23s  %-25s %s";
                String line = elide(form.formatted(bytes, name, meaning).stripTrailing(), WIDTH);
                if (!coloured || name.isEmpty()) return line;
                int end = 4 + bytes.length();
                return "\033[36m" + line.substring(0, end) + "\033[0m" + line.substring(end);
            }
        }

        /// One thing that travelled. The direction is "in" to this program, "out" of it, or "".
        record Traced(String time, long connection, String direction, String title,
                      List<Row> rows) {
            /// As the terminal shows it; with colours, the title is bold.
            String text(boolean coloured) {
                String start = connection == 0 ? ""
                        : "%s #%-4d %-4s".formatted(time, connection, direction);
                String first = elide(start + title, WIDTH);
                var lines = new StringJoiner("\n");
                lines.add(coloured ? "\033[1m" + first + "\033[0m" : first);
                for (Row row : rows) lines.add(row.text(coloured));
                return lines.toString();
            }
        }

        private final Consumer<Traced> told;

        Explained(Consumer<Traced> told) { this.told = told; }

        /// Explains frames of either direction, until one closes or breaks a rule.
        static String explain(byte[] frames) {
            var text = new StringJoiner("\n");
            var explained = new Explained(item -> text.add(item.text(false)));
            var reader = reader(frames, seen -> explained.received(0, seen));
            try {
                int opcode = WebSocket.CONTINUATION;
                while (opcode != WebSocket.CLOSE) opcode = readFrame(reader);
            } catch (WebSocket.Refusal broken) {
                explained.refused(0, broken, reader.culprit());
            } catch (IOException end) {
                byte[] rest = reader.culprit();
                if (rest.length > 0) explained.lost(0, rest);
            }
            return text.toString();
        }

        private static WebSocket.Reader reader(byte[] frames, Consumer<WebSocket.Seen> show) {
            var bytes = new ByteArrayInputStream(frames);
            var in = new WebSocket.Input(bytes, bytes);
            return new WebSocket.Reader(in, WebSocket.Sender.ANY, true, MAX_EXPLAINED,
                    WebSocket.Share.unbounded(), show);
        }

        /// @return the opcode
        private static int readFrame(WebSocket.Reader reader) throws IOException {
            WebSocket.Header header = reader.readHeader();
            if (!header.isControl()) reader.readData();
            else if (header.opcode() == WebSocket.CLOSE) WebSocket.codeOf(reader.readControl());
            else reader.readControl();
            return header.opcode();
        }

        // ---- What a connection tells ----

        @Override
        public void received(long number, WebSocket.Seen seen) {
            tell(number, "in", title(seen), rows(seen));
        }

        @Override
        public void sent(long number, byte[] frame) {
            try {
                readFrame(reader(frame, seen -> tell(number, "out", title(seen), rows(seen))));
            } catch (IOException impossible) {          // our own frames keep the rules
                tell(number, "out", impossible.toString(), List.of());
            }
        }

        @Override
        public void refused(long number, WebSocket.Refusal refusal, byte[] culprit) {
            String title = "refused with " + refusal.code + ": " + refusal.getMessage();
            tell(number, "", title, shown(culprit, "the culprit"));
        }

        @Override
        public void lost(long number, byte[] unfinished) {
            String title = "the end, without a Close (§7.1.5)";
            tell(number, "", title, shown(unfinished, "unfinished"));
        }

        @Override
        public void head(long number, boolean in, String text) {
            var rows = new ArrayList<Row>();
            for (String line : text.strip().split("\r\n")) rows.addAll(ofHead(line));
            boolean answers = text.startsWith("HTTP/");
            String title = answers ? "the answer (§4.2.2)" : "the opening handshake (§4.1)";
            tell(number, in ? "in" : "out", title, rows);
        }

        private void tell(long number, String direction, String title, List<Row> rows) {
            told.accept(new Traced(now(), number, direction, title, rows));
        }

        // ---- Rows ----

        private static List<Row> shown(byte[] bytes, String name) {
            if (bytes.length == 0) return List.of();
            return List.of(new Row(hex(bytes, 0, bytes.length), name, ""));
        }

        private static String title(WebSocket.Seen seen) {
            long length = seen.header().length();
            return WebSocket.nameOf(seen.header().opcode()) + " frame, " + length
                    + (length == 1 ? " byte" : " bytes");
        }

        /// A row for each field of a frame, in their order.
        private static List<Row> rows(WebSocket.Seen seen) {
            WebSocket.Header header = seen.header();
            byte[] wire = header.encode();
            byte[] payload = seen.payload();
            int keyAt = header.masked() ? wire.length - 4 : wire.length;
            var rows = new ArrayList<Row>();
            rows.add(firstByte(seen, wire));
            rows.add(secondByte(header, wire, keyAt - 2));
            if (keyAt > 2)
                rows.add(new Row(hex(wire, 2, keyAt), "length=" + header.length(), "(§5.2)"));
            if (header.masked()) {
                byte[] masked = payload.clone();
                WebSocket.Header.mask(header.key(), 0, masked, 0, masked.length);
                String example = payload.length == 0 ? "" : "%02x ^ %02x = %02x, and so on (§5.3)"
                        .formatted(masked[0], wire[keyAt], payload[0]);
                rows.add(new Row(hex(wire, keyAt, wire.length), "masking key",
                        "always new (§5.3)"));
                rows.add(new Row(hex(masked, 0, masked.length), "payload, masked", example));
            }
            rows.add(new Row(hex(payload, 0, payload.length), "payload", meaning(seen)));
            if (seen.inflated() != null) rows.add(inflated(seen));
            return rows;
        }

        private static Row firstByte(WebSocket.Seen seen, byte[] wire) {
            WebSocket.Header header = seen.header();
            int fin = header.fin() ? 1 : 0;
            String rsv = bits(header.rsv() >> 4, 3);
            String name = "FIN=" + fin + " RSV=" + rsv + " opcode=" + header.opcode();
            String bits = fin + " " + rsv + " " + bits(header.opcode(), 4);
            return new Row(hex(wire, 0, 1) + " = " + bits, name,
                    WebSocket.nameOf(header.opcode()) + role(seen));
        }

        private static Row secondByte(WebSocket.Header header, byte[] wire, int more) {
            int mask = header.masked() ? 1 : 0;
            int length7 = wire[1] & WebSocket.Header.LENGTH;
            String meaning = more == 0 ? "the length itself (§5.2)"
                    : "so " + more + " more bytes (§5.2)";
            return new Row(hex(wire, 1, 2) + " = " + mask + " " + bits(length7, 7),
                    "MASK=" + mask + " length=" + length7, meaning);
        }

        private static Row inflated(WebSocket.Seen seen) {
            byte[] inflated = seen.inflated();
            int saved = inflated.length - seen.compressedSize();
            String saves = saved < 0 ? "costs " + -saved : "saves " + saved;
            return new Row(hex(inflated, 0, inflated.length), "inflated to " + inflated.length,
                    saves + ": " + quoted(inflated, 0));
        }

        private static String role(WebSocket.Seen seen) {
            WebSocket.Header header = seen.header();
            switch (header.opcode()) {
                case WebSocket.CLOSE: return " (§5.5.1)";
                case WebSocket.PING: return ", wants a PONG (§5.5.2)";
                case WebSocket.PONG: return " (§5.5.3)";
                default:
            }
            if (!header.fin()) return ", fragment " + seen.fragment() + ", more to come (§5.4)";
            if (seen.fragment() == 1) return ", a whole message (§5.6)";
            return ", the last of " + seen.fragment() + " fragments (§5.4)";
        }

        private static String meaning(WebSocket.Seen seen) {
            byte[] payload = seen.payload();
            if (seen.compressed()) return "compressed (RFC 7692 §7.2)";
            boolean hasCode = seen.header().opcode() == WebSocket.CLOSE && payload.length > 1;
            if (!hasCode) return quoted(payload, 0);
            int code = Short.toUnsignedInt(ByteBuffer.wrap(payload).getShort());
            return (code + " (§7.4) " + quoted(payload, 2)).strip();
        }

        /// The beginning of a text in quotes; nothing if it isn't UTF-8.
        private static String quoted(byte[] bytes, int from) {
            // No character has more than four bytes: so much is looked at, however much there is.
            int to = Math.min(bytes.length, from + 4 * TEXT_SHOWN + 4);
            String text = new String(bytes, from, to - from, UTF_8);
            if (to < bytes.length) text = text.substring(0, text.length() - 4);     // cut in two?
            if (text.contains("\ufffd")) return "";
            return '"' + elide(WebSocket.printable(text), TEXT_SHOWN) + '"';
        }

        /// Up to eight bytes; of more the first four and the last three.
        private static String hex(byte[] bytes, int from, int to) {
            HexFormat hex = HexFormat.ofDelimiter(" ");
            if (from == to) return "-";
            if (to - from <= 8) return hex.formatHex(bytes, from, to);
            return hex.formatHex(bytes, from, from + 4) + " … " + hex.formatHex(bytes, to - 3, to);
        }

        private static String bits(int value, int count) {
            String bits = Integer.toBinaryString(value);
            return "0".repeat(count - bits.length()) + bits;
        }

        /// A line of a handshake with its meaning; a long one takes several rows.
        private static List<Row> ofHead(String line) {
            var rows = new ArrayList<Row>();
            String rest = WebSocket.printable(line);
            String meaning = meaningOf(line);
            if (rest.length() + meaning.length() <= WIDTH - 6)
                return List.of(new Row(rest, "", meaning));
            while (!rest.isEmpty()) {
                int most = Math.min(rest.length(), WIDTH - 6);
                rows.add(new Row(rest.substring(0, most), "", ""));
                rest = rest.substring(most);
            }
            return rows;
        }

        private static String meaningOf(String line) {
            int end = 0;
            while (end < line.length() && line.charAt(end) != ':' && line.charAt(end) != ' ') end++;
            return switch (line.substring(0, end).toLowerCase(Locale.ROOT)) {
                case "get" -> "the resource that is asked for";
                case "http/1.1" -> line.startsWith("101", 9) ? "yes: from here on, frames" : "";
                case "host" -> "which server is meant";
                case "upgrade" -> "not HTTP any more, but this";
                case "connection" -> "names the header Upgrade";
                case "origin" -> "whose page asks (§10.2)";
                case "sec-websocket-version" -> "that of RFC 6455";
                case "sec-websocket-key" -> "random, 16 bytes (§4.1)";
                case "sec-websocket-accept" -> "made of the key (§4.2.2)";
                case "sec-websocket-protocol" -> "what will be spoken (§1.9)";
                case "sec-websocket-extensions" -> "compression (RFC 7692)";
                default -> "";
            };
        }

        // ---- On a terminal ----

        /// Cuts a text that is too long, but never a character in two.
        static String elide(String text, int most) {
            if (text.length() <= most) return text;
            int end = most - 1;
            if (Character.isHighSurrogate(text.charAt(end - 1))) end--;
            return text.substring(0, end) + "…";
        }

        static String now() { return LocalTime.now().format(TIME); }

        private static final DateTimeFormatter TIME =
                DateTimeFormatter.ofPattern("HH:mm:ss.SSS", Locale.ROOT);

        /// Whether stderr is a terminal that knows colours. It is asked when it is first needed:
        /// that takes 20 ms. (JDK 22 to 24 always claim to have a console.)
        private static final class Colours {
            static final boolean WANTED = System.console() != null
                    && System.getenv("NO_COLOR") == null
                    && !"dumb".equals(System.getenv("TERM"))
                    && !new File("/dev/stderr").isFile()
                    && !List.of(22, 23, 24).contains(Runtime.version().feature());
        }

        static void print(Traced traced) {
            WebSocket.Log.print(traced.text(Colours.WANTED));
        }
    }

    /// A connection to Redis, Valkey or what else speaks RESP2. A command is strings, each with its
    /// length in bytes in front: nothing in them can be mistaken for a command. No question waits
    /// for the answer to another: all go out at once, and answers come in the order of questions.
    static final class Resp {
        static final int ANSWER_TIME = 5_000;       // ms for an answer; later, the engine is away

        private final Socket socket = new Socket();
        private final DataInputStream in;
        private final OutputStream out;
        private final Set<String> refusals = new HashSet<>();       // kinds that are in the log
        private final Object order = new Object();  // guards what follows; never held over I/O
        private final Queue<CompletableFuture<List<String>>> unanswered = new ArrayDeque<>();
        private ByteArrayOutputStream unwritten = new ByteArrayOutputStream();
        private boolean writing;                    // a thread writes what is unwritten, and ends
        private String ending;                      // why this is closed, or null

        /// @param engine redis[s]://[user:password@]host[:port][/…]
        /// @throws IOException it can't be reached, or wants another password
        Resp(URI engine) throws IOException {
            // By hand, since URI finds no host in a name with _, as Docker Compose gives them.
            String authority = engine.getRawAuthority();
            int hostAt = authority.lastIndexOf('@') + 1;
            String secret = authority.substring(0, Math.max(0, hostAt - 1)).replace("+", "%2B");
            String[] who = URLDecoder.decode(secret, UTF_8).split(":", 2);
            String host = WebSocket.Handshake.hostName(authority.substring(hostAt));
            String port = authority.substring(hostAt + host.length());          // :PORT, or nothing
            int number = port.length() < 2 ? 6379 : Integer.parseInt(port.substring(1));
            try {
                socket.connect(new InetSocketAddress(host, number), ANSWER_TIME);
                socket.setSoTimeout(ANSWER_TIME);
                socket.setTcpNoDelay(true);
                Socket stream = engine.getScheme().equals("rediss")
                        ? WebSocket.secured(socket, null, host, number) : socket;
                in = new DataInputStream(new BufferedInputStream(stream.getInputStream()));
                out = stream.getOutputStream();
                logIn(who[0], who.length > 1 ? who[1] : System.getenv("CHAT_REDIS_PASSWORD"));
            } catch (IOException | IllegalArgumentException wrong) {
                close(wrong.toString());
                throw new IOException("can't use --redis at " + host + ": " + wrong);
            }
        }

        private void logIn(String user, String password) throws IOException {
            if (password == null) send("PING");
            else if (user.isEmpty()) send("AUTH", password);
            else send("AUTH", user, password);
            read();
        }

        /// Asks, and doesn't wait. @return the strings and numbers of the answer when it has come;
        /// none if the engine refuses, or is lost
        CompletableFuture<List<String>> ask(String... words) {
            var answer = new CompletableFuture<List<String>>();
            if (!enqueue(answer, words)) answer.complete(List.of());
            return answer;
        }

        /// A command whose answer nobody waits for: what subscribers hear is no answer.
        void send(String... words) { enqueue(null, words); }

        /// @return false if the connection has ended
        private boolean enqueue(CompletableFuture<List<String>> answer, String... words) {
            var command = new StringBuilder().append('*').append(words.length).append("\r\n");
            for (String word : words)
                command.append('$').append(word.getBytes(UTF_8).length).append("\r\n").append(word)
                        .append("\r\n");
            byte[] bytes = command.toString().getBytes(UTF_8);
            synchronized (order) {
                if (ending != null) return false;
                if (answer != null) unanswered.add(answer);
                unwritten.writeBytes(bytes);
                if (writing) return true;
                writing = true;
            }
            Thread.startVirtualThread(this::write);
            return true;
        }

        private void write() {
            try {
                while (true) {
                    ByteArrayOutputStream batch;
                    synchronized (order) {
                        batch = unwritten;
                        writing = batch.size() > 0;
                        if (!writing) return;
                        unwritten = new ByteArrayOutputStream();
                    }
                    batch.writeTo(out);
                }
            } catch (IOException lost) {
                close(lost.toString());
            }
        }

        /// Hands each answer to who has asked, until the connection is lost. One thread does this.
        /// What the engine refuses is logged once of each kind, which is its message's first word.
        /// @throws IOException how it was lost; a replica, which can't be written to, is as good
        void answer() throws IOException {
            while (true) {
                List<String> answer = List.of();
                try {
                    answer = read();
                } catch (ProtocolException refusal) {
                    String why = refusal.getMessage(), kind = why.split(" ")[0];
                    if (kind.equals("READONLY")) throw refusal;
                    if (refusals.add(kind)) log("Redis: " + why);
                }
                CompletableFuture<List<String>> asked;
                synchronized (order) { asked = unanswered.poll(); }
                if (asked == null) throw new IOException("an answer that nobody has asked for");
                asked.complete(answer);
            }
        }

        /// @return the strings and numbers that have come; nothing (nil) is an empty string
        /// @throws ProtocolException with the engine's words, if it refuses
        List<String> read() throws IOException {
            int type = in.readUnsignedByte();
            var line = new StringBuilder();
            for (int next = in.readUnsignedByte(); next != '\n'; next = in.readUnsignedByte())
                line.append((char) next);
            String value = line.toString().strip();
            switch (type) {
                case '+', ':' -> { return List.of(value); }
                case '$' -> { return List.of(readString(Integer.parseInt(value))); }
                case '*' -> {
                    var answer = new ArrayList<String>();
                    for (int size = Integer.parseInt(value); size > 0; size--)
                        answer.addAll(read());
                    return answer;
                }
                default -> throw new ProtocolException(value);
            }
        }

        private String readString(int size) throws IOException {
            if (size < 0) return "";
            byte[] bytes = in.readNBytes(size);     // makes room for what comes, not for the size
            in.readFully(new byte[2]);              // CR LF
            return new String(bytes, UTF_8);
        }

        /// Ends it; the first reason is the one that counts. Who has asked gets no answer.
        void close(String why) {
            List<CompletableFuture<List<String>>> lost;
            synchronized (order) {
                if (ending == null) ending = why;
                lost = List.copyOf(unanswered);
                unanswered.clear();
            }
            try { socket.close(); } catch (IOException closed) { }
            for (var question : lost) question.complete(List.of());
        }

        String ending() { synchronized (order) { return ending; } }
    }

    /// The same lines on several servers, through an engine: one connection asks, another hears
    /// what is published. While the engine is away, lines stay here.
    ///
    /// The life of a line: publish() notes it as unseen, and sends it. The engine sends it to all
    /// who have subscribed, to us as well: that echo is the acknowledgement, and only then is the
    /// line delivered here, so that everybody has the same order. If the engine is lost before the
    /// echo, all that is unseen is delivered here. So a line comes once, or elsewhere not at all.
    abstract static class Redis {
        static final int REFRESH = 15;              // seconds from one sign of life to the next
        static final int PING = 2;                  // seconds between PINGs, so that a connection
                                                    // without an answer for ANSWER_TIME is lost
        static final int DEFLATE_FROM = 1024;       // bytes: a longer line travels compressed
        static final int MAX_LINE = 1 << 30;        // bytes: no server has a longer one

        final String server = UUID.randomUUID().toString();     // begins each line's id
        private final URI engine;
        private final String prefix;
        private final AtomicLong published = new AtomicLong();
        /// Topics that somebody here hears; done as soon as the engine knows.
        private final Map<String, CompletableFuture<Void>> topics = new ConcurrentHashMap<>();
        private final Object order = new Object();  // guards what follows: one line at a time
        private final Map<String, Unseen> unseen = new LinkedHashMap<>();       // by id
        private volatile boolean carries;
        private volatile Resp asker, hearer;
        private volatile String cause;              // why the engine is lost; null: it isn't
        private volatile long ahead;                // ms that the engine's clock is ahead of ours
        private final ScheduledExecutorService threads =
                Executors.newScheduledThreadPool(3, Thread.ofVirtual().factory());

        private record Unseen(long sent, Runnable delivery) { }

        abstract void deliver(String topic, String line);           // one after the other
        abstract void reachable(boolean again);
        abstract void refresh();                    // now and then, and when it is reached again

        /// @param engine as for Resp; its path begins all keys and topics
        Redis(URI engine) throws IOException {
            this.engine = engine;
            boolean named = engine.getPath().length() > 1;
            prefix = (named ? engine.getPath().substring(1) : "chat") + ":";
            try { connect(); } catch (Throwable away) { close(); throw away; }
            threads.submit(this::stayConnected);
            repeat(threads, REFRESH, this::keepAlive);
            repeat(threads, PING, this::ping);
        }

        /// Does something again and again; when it fails, not for the last time.
        static void repeat(ScheduledExecutorService threads, int seconds, Runnable task) {
            threads.scheduleWithFixedDelay(() -> {
                try { task.run(); } catch (Throwable bug) { log("it failed: " + bug); }
            }, seconds, seconds, TimeUnit.SECONDS);
        }

        boolean carries() { return carries; }

        /// Returns when the engine takes what we say, and all topics are heard (again).
        private void connect() throws IOException {
            var questions = new Resp(engine);
            asker = questions;
            var events = new Resp(engine);
            hearer = events;
            Thread.startVirtualThread(() -> {
                try {
                    questions.answer();
                } catch (IOException | RuntimeException lost) {
                    questions.close(lost.toString());
                }
                events.close(questions.ending());
            });
            for (String topic : topics.keySet()) events.send("SUBSCRIBE", prefix + topic);
            events.send("PING");
            boolean subscribed = false;
            while (!subscribed) subscribed = hear(events);
            ask("DEL", "");                         // a replica refuses that, not PUBLISH
            keepAlive();
            if (ask("PUBLISH", "", "").join().isEmpty()) {
                questions.close("no line may be published");
                throw new IOException(questions.ending());
            }
            synchronized (order) {
                carries = true;
                if (cause != null) reachable(true);
            }
            if (cause != null) log("Redis can be reached again");
            cause = null;
        }

        /// Hears until close(). Who loses the engine connects again, after a pause that doubles up
        /// to 13 s, or by chance a shorter one: not all servers at once.
        private void stayConnected() {
            int losses = 0;
            while (!threads.isShutdown())
                try {
                    if (!carries) connect();
                    while (true) {
                        boolean pong = hear(hearer);
                        if (pong) losses = 0;
                    }
                } catch (Throwable lost) {
                    lose(Objects.requireNonNullElse(lost.getMessage(), lost.toString()));
                    LockSupport.parkNanos(ThreadLocalRandom.current().nextLong(PAUSE << losses));
                    if (losses < 7) losses++;
                }
        }

        private void lose(String why) {
            hearer.close(why);
            asker.close(why);
            if (!why.equals(cause) && !threads.isShutdown()) log("Redis is lost: " + why);
            cause = why;
            synchronized (order) {
                if (carries) reachable(false);
                carries = false;
                for (Unseen line : unseen.values()) line.delivery.run();
                unseen.clear();
            }
            for (var confirmed : topics.values()) confirmed.complete(null);
        }

        /// Hears one thing. @return whether it is the answer to a PING
        private boolean hear(Resp events) throws IOException {
            try {
                List<String> event = events.read();
                String kind = event.get(0);
                if (kind.equals("subscribe")) confirm(topicOf(event));
                if (kind.equals("message")) take(topicOf(event), event.get(2));
                return kind.equalsIgnoreCase("pong");
            } catch (IOException | RuntimeException lost) {
                events.close(lost.toString());
                throw new IOException(events.ending());         // perhaps the asker was lost first
            }
        }

        private String topicOf(List<String> event) {
            return event.get(1).substring(prefix.length());
        }

        private void confirm(String topic) {
            var waiting = topics.get(topic);
            if (waiting != null) waiting.complete(null);
        }

        /// A line comes after its id, or after "-" and its id if it is compressed.
        private void take(String topic, String published) {
            int end = published.indexOf('\n');
            if (end < 0) return;                    // by a stranger
            boolean packed = published.startsWith("-");
            String id = published.substring(packed ? 1 : 0, end);
            boolean own = id.startsWith(server);
            String line = published.substring(end + 1);
            if (packed && !own) line = unpacked(line);
            synchronized (order) {
                Unseen echo = unseen.remove(id);
                if (echo != null) echo.delivery.run();
                else if (!own && line != null) deliver(topic, line);        // own: it was given up
            }
        }

        /// Has a line delivered: once, here when it comes back, or when it can't any more.
        /// @return when that is done
        void publish(String topic, String line, Runnable delivery) {
            String id = server + published.incrementAndGet();
            String packed = line.length() < DEFLATE_FROM ? null : packed(line);
            String message = packed == null ? id + "\n" + line : "-" + id + "\n" + packed;
            var delivered = new CompletableFuture<Void>();
            Runnable once = () -> {
                try { delivery.run(); } finally { delivered.complete(null); }
            };
            synchronized (order) {
                if (carries) unseen.put(id, new Unseen(System.nanoTime(), once));
                else once.run();
            }
            var confirmed = subscribe(topic);
            if (!delivered.isDone()) confirmed.join();          // else it would not come back
            if (delivered.isDone()) return;                     // the engine is away
            Resp engine = asker;
            engine.ask("PUBLISH", prefix + topic, message).thenAccept(answer -> {
                if (answer.isEmpty()) engine.close("no line may be published");
            });
            delivered.join();
        }

        /// Before the first line of a topic. @return is done when its lines are heard
        CompletableFuture<Void> subscribe(String topic) {
            var confirmed = new CompletableFuture<Void>();
            var before = topics.putIfAbsent(topic, confirmed);
            if (before != null) return before;
            hearer.send("SUBSCRIBE", prefix + topic);
            return confirmed;
        }

        /// After the last line of a topic.
        void unsubscribe(String topic) {
            topics.remove(topic);
            hearer.send("UNSUBSCRIBE", prefix + topic);
        }

        /// Asks about a key, as Resp does.
        CompletableFuture<List<String>> ask(String command, String key, String... rest) {
            var words = new ArrayList<String>(List.of(command, prefix + key));
            words.addAll(List.of(rest));
            return asker.ask(words.toArray(String[]::new));
        }

        /// ms of the engine's clock: what one server writes with it, all others judge by it.
        long now() { return System.currentTimeMillis() + ahead; }

        void keepAlive() {
            List<String> time = asker.ask("TIME").join();       // seconds, microseconds
            if (time.size() == 2) ahead = 1000 * Long.parseLong(time.get(0))
                    + Long.parseLong(time.get(1)) / 1000 - System.currentTimeMillis();
            refresh();
        }

        private void ping() {
            asker.ask("PING");
            if (carries) hearer.send("PING");
            long longAgo = System.nanoTime() - 2_000_000L * Resp.ANSWER_TIME;
            boolean stuck;
            synchronized (order) {
                stuck = unseen.values().stream().limit(1).anyMatch(line -> line.sent < longAgo);
            }
            if (stuck) hearer.close("a line does not come back");
        }

        /// @return null if it doesn't get shorter
        private static String packed(String line) {
            byte[] text = line.getBytes(UTF_8);
            String packed = Base64.getEncoder().encodeToString(WebSocket.deflate(text));
            return packed.length() < text.length ? packed : null;
        }

        /// @return null if a stranger has published what isn't compressed
        private static String unpacked(String line) {
            try {
                byte[] packed = Base64.getDecoder().decode(line);
                return new String(WebSocket.inflate(packed, packed.length, MAX_LINE,
                        WebSocket.Share.unbounded()), UTF_8);
            } catch (WebSocket.Refusal | IllegalArgumentException garbage) {
                return null;
            }
        }

        void close() {
            try {
                if (carries) asker.ask("PING").get(1, TimeUnit.SECONDS);        // all has gone out
            } catch (Exception lost) { }
            threads.shutdownNow();
            if (asker != null) asker.close("closed");
            if (hearer != null) hearer.close("closed");
        }
    }

    /// What happens in a room, as data. It travels as one line, to other servers and to clients
    /// that have asked for it: what kind it is, then names (which hold no blank), then the rest.
    /// Plain clients get a sentence; no program has to understand that.
    sealed interface Event {
        /// What somebody is called: for that one only, at first and at each change.
        record You(String name) implements Event { }
        /// Somebody has joined, or else left; with that, so many are here.
        record Moved(String name, boolean joined, int count) implements Event { }
        record Renamed(String name, String next) implements Event { }
        record Said(String name, String text) implements Event { }
        /// So many are here; the names (not all) if somebody wanted to know.
        record Here(int count, List<String> names) implements Event { }
        /// For people to read.
        record Note(String text) implements Event { }

        default String encode() {
            return switch (this) {
                case You(String name) -> "you " + name;
                case Moved(String name, boolean joined, int count) ->
                    (joined ? "joined " : "left ") + name + " " + count;
                case Renamed(String name, String next) -> "renamed " + name + " " + next;
                case Said(String name, String text) -> "said " + name + " " + text;
                case Here(int count, List<String> names) ->
                    "here " + count + names.stream().map(" "::concat).collect(Collectors.joining());
                case Note(String text) -> "note " + text;
            };
        }

        /// What another server has told. @return null if it is nothing that servers tell
        static Event decode(String line) {
            String[] words = line.split(" ", 3);
            if (words.length < 3) return null;
            try {
                return switch (words[0]) {
                    case "joined" -> new Moved(words[1], true, Integer.parseInt(words[2]));
                    case "left" -> new Moved(words[1], false, Integer.parseInt(words[2]));
                    case "renamed" -> new Renamed(words[1], words[2]);
                    case "said" -> new Said(words[1], words[2]);
                    default -> null;
                };
            } catch (NumberFormatException noCount) {
                return null;
            }
        }

        /// What a plain client is told, or null for nothing.
        default String sentence() {
            return switch (this) {
                case Moved(String name, boolean joined, int count) when !joined ->
                    " .... " + name + " has left.";
                case Renamed(String name, String next) ->
                    " .... " + name + " is now " + next + ".";
                case Said(String name, String text) -> name + ": " + indented(text);
                case Here(int count, List<String> names) when !names.isEmpty() -> {
                    int more = count - names.size();
                    yield " .... " + count + " here: " + String.join(", ", names)
                            + (more > 0 ? ", and " + more + " more" : "");
                }
                case Note(String text) -> " .... " + text;
                default -> null;
            };
        }

        /// A plain client may be a terminal, where what follows a line break would look like a line
        /// of its own: like a notice, or like somebody else's. So a TAB follows. (A browser shows
        /// both as one blank, as it shows the line break.)
        private static String indented(String text) {
            var lines = new StringBuilder(text.length() + 16);
            for (int i = 0; i < text.length(); i++) {
                lines.append(text.charAt(i));
                if (endsLine(text, i)) lines.append('\t');
            }
            return lines.toString();
        }

        /// How many that adds.
        static int tabs(String text) {
            int tabs = 0;
            for (int i = 0; i < text.length(); i++)
                if (endsLine(text, i)) tabs++;
            return tabs;
        }

        /// Whether another line follows after this letter. CR LF is one line break.
        private static boolean endsLine(String text, int i) {
            char letter = text.charAt(i);
            boolean lineBreak = letter == '\n' || letter == '\r' || letter == '\u0085';
            if (!lineBreak || i + 1 == text.length()) return false;
            return letter != '\r' || text.charAt(i + 1) != '\n';
        }
    }

    /// What a room or a person can be called.
    static final class Name {
        static final int MAX_NICK = 24, MAX_ROOM = 64;          // letters
        /// These write some words with an invisible letter, a joiner, in the middle.
        private static final Set<Character.UnicodeScript> JOINING = EnumSet.of(ARABIC, SYRIAC,
                DEVANAGARI, BENGALI, GURMUKHI, GUJARATI, ORIYA, TAMIL, TELUGU, KANNADA, MALAYALAM,
                SINHALA);

        private Name() { }

        /// Letters, digits, - and _. The length comes first: to normalize costs time that grows
        /// faster than the text. (A letter can be written with up to 4 code points of 2 chars.)
        /// @return the usual form of what somebody has written, or null if that is no name
        static String of(String written, int most) {
            if (written.length() > 8 * most) return null;
            String name = Normalizer.normalize(written, Normalizer.Form.NFC);
            int[] letters = name.codePoints().toArray();
            if (letters.length == 0 || letters.length > most || isMark(letters[0])) return null;
            for (int i = 0; i < letters.length; i++)
                if (!isLetter(letters[i]) && !isJoiner(letters, i)) return null;
            return name;
        }

        private static boolean isMark(int letter) {     // it would join what stands before the name
            return switch (Character.getType(letter)) {
                case Character.NON_SPACING_MARK, Character.ENCLOSING_MARK,
                    Character.COMBINING_SPACING_MARK -> true;
                default -> false;
            };
        }

        private static boolean isLetter(int letter) {
            return switch (Character.getType(letter)) {
                case Character.LETTER_NUMBER, Character.OTHER_NUMBER -> true;
                default -> Character.isLetterOrDigit(letter) || isMark(letter)
                        || letter == '-' || letter == '_';
            } && !isInvisible(letter);
        }

        /// Unicode's Default_Ignorable_Code_Point, as far as these count as letters or marks.
        private static boolean isInvisible(int letter) {
            return switch (letter) {
                case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x3164, 0xffa0 -> true;
                default -> letter >= 0x180b && letter <= 0x180f
                        || letter >= 0xfe00 && letter <= 0xfe0f
                        || letter >= 0xe0100 && letter <= 0xe01ef;
            };
        }

        private static boolean isJoiner(int[] letters, int i) {
            boolean joiner = letters[i] == '\u200c' || letters[i] == '\u200d';
            if (!joiner || i == 0 || i + 1 == letters.length) return false;
            return JOINING.contains(Character.UnicodeScript.of(letters[i - 1]))
                    && JOINING.contains(Character.UnicodeScript.of(letters[i + 1]));
        }

        /// Names with the same key look the same, or almost: nobody shall speak in another's name.
        /// By way of upper case and back, as ς and σ have only Σ in common, and ß is SS (ẞ is ß).
        static String key(String name) {
            String visible = name.replace("\u200c", "").replace("\u200d", "");
            String lower = Normalizer.normalize(visible, Normalizer.Form.NFKC)
                    .toLowerCase(Locale.ROOT);
            String same = lower.toUpperCase(Locale.ROOT).toLowerCase(Locale.ROOT);
            return Normalizer.normalize(same, Normalizer.Form.NFKC);
        }
    }

    /// Who is in which room, what a line means, who hears it.
    static final class Rooms {
        static final String PRESENCE = "presence";  // subprotocol of who hears of events (§1.9)
        static final int CROWD = 1000;              // people above which no coming and going is
                                                    // told: N arrivals would cost N² lines
        static final int MAX_ROOMS = 10_000;        // a room needs memory, and names are free
        static final int MAX_LISTED = 100;          // names in the answer to /who
        static final int LIFE = 45_000;             // ms that people of a dead server seem to live
        static final int SETTLE = 3;                // seconds from one check of counts to the next
        static final int WISH = 120;                // seconds that somebody waits for a taken name
        static final int LAST_WORDS = 2;            // seconds to tell other servers who left
        static final int PACE = 64;                 // bytes a ms that everybody may always say

        /// Somebody in a room.
        static final class Member {
            private final WebSocket webSocket;
            private final Room room;
            private final boolean wantsEvents;      // and not the sentences of a plain client
            private volatile String nick = "";
            private volatile boolean arrived;       // hears the room, and is seen in it
            private volatile boolean hasSpoken;

            private Member(WebSocket webSocket, Room room) {
                this.webSocket = webSocket;
                this.room = room;
                wantsEvents = PRESENCE.equals(webSocket.protocol());
            }

            boolean hasGone() { return webSocket.state().compareTo(WebSocket.State.OPEN) > 0; }

            /// @return an event as this one's client takes it, or null for nothing
            private WebSocket.Message message(Event event) {
                String text = wantsEvents ? event.encode() : event.sentence();
                return text == null ? null : WebSocket.Message.text(text);
            }

            /// Sends a message (or null), but never waits. What goes wrong is nobody else's harm.
            private void post(WebSocket.Message message) {
                try {
                    if (message != null) webSocket.post(message);
                } catch (Throwable bug) {
                    webSocket.cutOff(bug.toString());
                }
            }
        }

        /// The people in a room at this server. Its lock is held while something is told or
        /// changed: so all hear the same things in one order.
        private static final class Room {
            private final String name;
            /// By the connection's number, so in the order of arrival: as they lie in memory, too.
            private final Map<Long, Member> members = new ConcurrentSkipListMap<>();
            private int here;                       // members who have arrived
            private int told;                       // how many people they believe to be here
            private boolean moved;                  // somebody came or went since told was checked
            private int guests;                     // who is in, comes or goes: see Rooms.open()
            private volatile boolean behind;        // somebody could not follow: see isBehind()

            Room(String name) { this.name = name; }

            /// Tells everybody.
            /// @param whose the member here who arrives by this, or has another name; or null
            synchronized void tell(Event event, Member whose) {
                if (event instanceof Event.Moved move) tellMove(move, whose);
                else post(event, whose, members.values());
            }

            /// In a crowd nobody is told who comes and goes, except who comes.
            private void tellMove(Event.Moved move, Member newcomer) {
                if (newcomer != null) {
                    newcomer.arrived = true;
                    here++;
                }
                moved = true;
                int count = atLeast(move.count());
                var exact = new Event.Moved(move.name(), move.joined(), count);
                boolean crowd = count + (move.joined() ? 0 : 1) > CROWD;
                if (!crowd) {
                    told = count;
                    post(exact, newcomer, members.values());
                } else if (newcomer != null) {
                    post(exact, newcomer, List.of(newcomer));
                }
            }

            private void post(Event event, Member whose, Collection<Member> audience) {
                if (whose != null && whose.wantsEvents)
                    whose.post(whose.message(new Event.You(whose.nick)));
                var line = WebSocket.Message.text(event.encode());
                String sentence = event.sentence();
                var plain = sentence == null ? null : WebSocket.Message.text(sentence);
                for (Member member : audience) {
                    if (!member.arrived) continue;
                    member.post(member.wantsEvents ? line : plain);
                    if (member.webSocket.isBehind()) behind = true;
                }
            }

            /// Tells how many are here, unless that is what the members believe.
            synchronized void correct(int count) {
                int exact = atLeast(count);
                if (exact == told) return;
                told = exact;
                post(new Event.Here(exact, List.of()), null, members.values());
            }

            /// @return whether somebody came or went since this was asked last
            synchronized boolean hasMoved() {
                boolean before = moved;
                moved = false;
                return before;
            }

            synchronized int atLeast(int count) { return Math.max(here, count); }

            synchronized void depart(Member member) {
                if (member.arrived) here--;
                member.arrived = false;
            }

            List<String> names(int most) {
                return members.values().stream().filter(member -> member.arrived)
                        .limit(most).map(member -> member.nick).toList();
            }

            /// Whether somebody still can't follow. All are asked only if a line has shown it.
            boolean isBehind() {
                if (!behind) return false;
                for (Member member : members.values())
                    if (member.webSocket.isBehind()) return true;
                behind = false;
                return false;
            }
        }

        private final Map<String, Room> rooms = new ConcurrentHashMap<>();
        private final Object doors = new Object();  // held while a room is opened or closed
        private final Map<String, Member> nicks = new ConcurrentHashMap<>();    // by key
        private final Object naming = new Object(); // held while nicks change, and that is sent
        private final Map<Member, Wish> wishes = new ConcurrentHashMap<>();
        private final Set<Member> twins = ConcurrentHashMap.newKeySet();        // to be renamed
        private final ScheduledExecutorService clock =
                Executors.newScheduledThreadPool(3, Thread.ofVirtual().factory());
        private final Redis redis;                  // null: there is no other server

        /// A taken name that somebody had before and waits for, and until when (ns).
        private record Wish(String nick, long end) { }

        Rooms(URI engine) throws IOException {
            redis = engine == null ? null : new Redis(engine) {
                @Override void deliver(String room, String line) { hearOthers(room, line); }
                @Override void refresh() { signOfLife(); }
                @Override void reachable(boolean again) {
                    String how = again ? "can be reached again." : "cannot be reached.";
                    for (Room room : rooms.values())
                        room.tell(new Event.Note("other servers " + how), null);
                }
            };
            Redis.repeat(clock, SETTLE, this::correctCounts);
            Redis.repeat(clock, SETTLE, this::renameTwins);
            Redis.repeat(clock, SETTLE, this::grantWishes);
        }

        /// After all have been sent away: other servers still hear that they left.
        void close() {
            long start = System.nanoTime();
            while (redis != null && !rooms.isEmpty()
                    && System.nanoTime() - start < LAST_WORDS * 1_000_000_000L)
                LockSupport.parkNanos(10_000_000);
            clock.shutdownNow();
            if (redis != null) redis.close();
        }

        /// The room of a path: `/`, `/chat` and `/chat/lobby` are one, `/chat/NAME` is NAME.
        /// @return null if there can be no such room
        static String ofPath(String path) {
            if (path.equals("/") || path.equals("/chat")) return "lobby";
            boolean tooLong = path.length() > 6 + Name.MAX_ROOM * 4 * 12;     // %F0%90%90%80
            if (!path.startsWith("/chat/") || tooLong) return null;
            try {
                return Name.of(URLDecoder.decode(path.substring(6), UTF_8), Name.MAX_ROOM);
            } catch (IllegalArgumentException badEscape) {
                return null;
            }
        }

        boolean canHold(String room) { return rooms.size() < MAX_ROOMS || rooms.containsKey(room); }

        /// @return who has joined the room; null for who has gone before that
        Member enter(WebSocket webSocket, String name) {
            Room room = open(name);
            var member = new Member(webSocket, room);
            String nick = claimAny(member);
            if (nick == null) {
                close(room);
                return null;
            }
            member.nick = nick;
            room.members.put(webSocket.number(), member);
            enlist(room, List.of(nick));
            say(room, new Event.Moved(nick, true, count(room)), member);
            return member;
        }

        void leave(Member member) {
            if (member == null) return;
            Room room = member.room;
            room.depart(member);                    // who neither hears nor is seen any more
            wishes.remove(member);
            ask("ZREM", listOf(room), member.nick);
            say(room, new Event.Moved(member.nick, false, count(room)));
            room.members.remove(member.webSocket.number());
            close(room);
            release(member.nick, member);           // not before all know
        }

        private Room open(String name) {
            synchronized (doors) {
                Room room = rooms.computeIfAbsent(name, Room::new);
                room.guests++;
                if (redis != null) redis.subscribe(name);
                return room;
            }
        }

        private void close(Room room) {
            synchronized (doors) {
                room.guests--;
                if (room.guests > 0) return;
                rooms.remove(room.name);
                if (redis != null) redis.unsubscribe(room.name);
            }
        }

        private void say(Room room, Event event) { say(room, event, null); }

        /// Returns when everybody at this server has heard it.
        private void say(Room room, Event event, Member whose) {
            if (redis == null) room.tell(event, whose);
            else redis.publish(room.name, event.encode(), () -> room.tell(event, whose));
        }

        /// The same from any thread: the room may be given up meanwhile, and opened again.
        private void sayAside(Room room, Event event, Member whose) {
            Room same = open(room.name);
            try { say(same, event, whose); } finally { close(same); }
        }

        private void hearOthers(String name, String line) {
            Room room = rooms.get(name);
            Event event = Event.decode(line);
            if (room != null && event != null) room.tell(event, null);
        }

        /// What somebody has typed: a line for all, or a command.
        void hear(Member member, String typed) {
            if (typed.startsWith("/") && !typed.startsWith("//")) {
                String line = typed.strip();
                int end = 0;
                while (end < line.length() && !Character.isWhitespace(line.charAt(end))) end++;
                Event answer = obey(member, line.substring(0, end), line.substring(end).strip());
                if (answer != null) member.webSocket.send(member.message(answer));
                return;
            }
            String text = typed.startsWith("//") ? typed.substring(1) : typed;
            member.hasSpoken = true;
            say(member.room, new Event.Said(member.nick, text));
            keepPace(member.room, text.length());
        }

        /// Who says more than others can read waits for them, for a moment that grows with what
        /// is said: not to answer is no way to silence a room.
        private void keepPace(Room room, int size) {
            long most = (1 + size / PACE) * 1_000_000L;         // ns
            long start = System.nanoTime();
            while (room.isBehind() && System.nanoTime() - start < most)
                LockSupport.parkNanos(1_000_000);
        }

        /// The commands. One more is one more case.
        /// @return what only the asker is told, or null
        private Event obey(Member member, String command, String rest) {
            return switch (command) {
                case "/nick" -> rename(member, rest);
                case "/who" -> who(member.room);
                case "/help" -> new Event.Note("/nick NAME changes your name, /who lists who is "
                        + "here, /help is this. // at the start says a /.");
                default -> new Event.Note("There is no command " + Explained.elide(command, 40)
                        + ". Try /help.");
            };
        }

        private Event rename(Member member, String wanted) {
            String nick = Name.of(wanted, Name.MAX_NICK);
            wishes.remove(member);
            if (nick == null) return new Event.Note("A name has 1 to 24 letters, digits, - or _.");
            if (claim(nick, member)) {
                become(member, nick);
                return null;
            }
            long end = System.nanoTime() + WISH * 1_000_000_000L;
            if (!member.hasSpoken) wishes.put(member, new Wish(nick, end));     // see grantWishes()
            return new Event.Note("The name " + nick + " is taken.");
        }

        /// Gives somebody the name that was claimed for them.
        private void become(Member member, String nick) {
            Room room = member.room;
            String before;
            synchronized (room) {
                if (!member.arrived) {              // has left meanwhile
                    release(nick, member);
                    return;
                }
                before = member.nick;
                member.nick = nick;
                ask("ZREM", listOf(room), before);
                enlist(room, List.of(nick));
            }
            sayAside(room, new Event.Renamed(before, nick), member);
            if (!Name.key(before).equals(Name.key(nick))) release(before, member);  // all know now
        }

        /// @return a name like user-5 that is theirs now; null if they have gone
        private String claimAny(Member member) {
            for (int tries = 0; !member.hasGone(); tries++) {
                int numbers = tries < 100 ? 100_000 : Integer.MAX_VALUE;        // it is full here
                String nick = "user-" + ThreadLocalRandom.current().nextInt(numbers);
                if (claim(nick, member)) return nick;
            }
            return null;
        }

        /// @return whether the name is theirs now, on all servers
        private boolean claim(String nick, Member member) {
            String key = Name.key(nick);
            CompletableFuture<List<String>> answer;
            synchronized (naming) {
                Member holder = nicks.putIfAbsent(key, member);
                if (holder != null) return holder == member;
                answer = hold(key);
            }
            // Nothing (an empty string) is the answer if another has it; else OK, or none at all.
            boolean taken = answer.join().contains("");
            if (taken) nicks.remove(key, member);
            return !taken;
        }

        private void release(String nick, Member member) {
            String key = Name.key(nick);
            synchronized (naming) {
                if (nicks.remove(key, member)) ask("DEL", "name:" + key);
            }
        }

        private Event who(Room room) {
            var elsewhere = ask("ZRANGE", listOf(room), "0", String.valueOf(MAX_LISTED - 1));
            int count = room.atLeast(count(room));
            var names = new TreeSet<String>(room.names(MAX_LISTED));
            names.addAll(elsewhere.join());
            return new Event.Here(Math.max(count, names.size()),
                    names.stream().limit(MAX_LISTED).toList());
        }

        // ---- Between servers; without others, nothing is asked --------------------------------
        // name:KEY is the server at which somebody has that name; who:ROOM has the people of a
        // room, each with the time (ms) at which they are forgotten. Both need signs of life.

        private CompletableFuture<List<String>> ask(String command, String key, String... rest) {
            if (redis == null) return CompletableFuture.completedFuture(List.of());
            return redis.ask(command, key, rest);
        }

        private static String listOf(Room room) { return "who:" + room.name; }

        private CompletableFuture<List<String>> hold(String key) {
            String server = redis == null ? "" : redis.server;
            return ask("SET", "name:" + key, server, "NX", "PX", String.valueOf(LIFE));
        }

        private void enlist(Room room, List<String> names) {
            if (redis == null || names.isEmpty()) return;
            String end = String.valueOf(redis.now() + LIFE);
            ask("ZADD", listOf(room), names.stream().flatMap(name -> Stream.of(end, name))
                    .toArray(String[]::new));
            ask("PEXPIRE", listOf(room), String.valueOf(LIFE));
        }

        /// @return people of a room at all servers; 0 if these can't be asked
        private int count(Room room) {
            List<String> answer = ask("ZCARD", listOf(room)).join();
            return answer.isEmpty() ? 0 : Integer.parseInt(answer.get(0));
        }

        /// Says of everybody that they are still here. All answers are waited for, so that
        /// questions can't pile up.
        private void signOfLife() {
            var answers = new ArrayList<CompletableFuture<Void>>();
            for (String key : nicks.keySet()) answers.add(keepName(key));
            for (Room room : rooms.values()) answers.add(keepMembers(room));
            for (var answer : answers) answer.join();
        }

        /// Finds out, too, whether another has the same name as well: while servers were apart,
        /// both could get it.
        private CompletableFuture<Void> keepName(String key) {
            synchronized (naming) {
                if (nicks.containsKey(key)) hold(key);          // the engine may have lost all
                return ask("GET", "name:" + key).thenAccept(answer -> {
                    String owner = String.join("", answer);
                    if (owner.equals(redis.server))
                        ask("PEXPIRE", "name:" + key, String.valueOf(LIFE));
                    else if (!owner.isEmpty() && nicks.remove(key) instanceof Member twin)
                        twins.add(twin);
                });
            }
        }

        /// Finds out, too, who gave no sign of life for long.
        private CompletableFuture<Void> keepMembers(Room room) {
            synchronized (room) {
                room.moved = true;                  // so that its count is checked
                enlist(room, room.names(Integer.MAX_VALUE));
            }
            String now = String.valueOf(redis.now());
            return ask("ZRANGEBYSCORE", listOf(room), "-inf", now).thenAccept(names -> {
                if (redis.carries() && !names.isEmpty())
                    Thread.startVirtualThread(() -> tellOfTheDead(room, names));
            });
        }

        /// People of a dead server have left. Of several servers, one gets the 1, and tells.
        private void tellOfTheDead(Room room, List<String> names) {
            for (String name : names)
                if (ask("ZREM", listOf(room), name).join().contains("1"))
                    sayAside(room, new Event.Moved(name, false, count(room)), null);
        }

        /// When many come and go at several servers, the counts told with it cross on their way.
        private void correctCounts() {
            for (Room room : rooms.values())
                if (room.hasMoved())
                    Thread.startVirtualThread(() -> room.correct(count(room)));
        }

        private void renameTwins() {
            if (redis == null || !redis.carries()) return;
            for (Member twin : twins) {
                twins.remove(twin);
                if (nicks.get(Name.key(twin.nick)) == twin) continue;   // has another name now
                twin.post(twin.message(new Event.Note("At another server somebody has the name "
                        + twin.nick + ", too.")));
                String nick = claimAny(twin);
                if (nick != null) become(twin, nick);
            }
        }

        /// Who comes back, over another network say, may find a ghost under the old name, and gets
        /// it when the ghost has gone.
        private void grantWishes() {
            wishes.forEach((member, wish) -> {
                if (System.nanoTime() - wish.end > 0) wishes.remove(member, wish);
                else if (claim(wish.nick, member)) {
                    if (wishes.remove(member, wish)) become(member, wish.nick);
                    else release(wish.nick, member);            // it was given up meanwhile
                }
            });
        }
    }

    /// What browsers get: the page; at /trace what travels, while it travels; and at /break what
    /// no browser would send is sent for them. Both show what everybody says, so they are only for
    /// who sits at this machine.
    final class Web {
        static final int MAX_TRACED = 1000;         // items that may wait for one browser
        static final int MAX_BROKEN = 300;          // bytes to send in one go: a few frames
        static final int BREAK_TIME = 1000;         // ms of silence after which they were answered
        private static final String TEXT = "text/plain", HTML = "text/html";
        // The page connects to the port that it came from ('self'), or to our other one at the same
        // host. Which host that is, a proxy may hide from us.
        private static final String POLICY = """
            default-src 'none'; script-src 'nonce-%1$s'; style-src 'nonce-%1$s'; \
            connect-src 'self' %2$s; img-src data:; base-uri 'none'; form-action 'none'; \
            frame-ancestors 'none'""";

        private final Set<Watcher> watchers = ConcurrentHashMap.newKeySet();
        private final Semaphore breaking = new Semaphore(1);        // one at a time

        void answer(HttpExchange exchange) throws IOException {
            String path = Objects.requireNonNullElse(exchange.getRequestURI().getRawPath(), "");
            String method = exchange.getRequestMethod();
            boolean get = method.equals("GET") || method.equals("HEAD");
            try (exchange) {
                if (!mayAsk(exchange)) {
                    reply(exchange, 403, TEXT, "The server has other names. " + settings.hint);
                } else if (header(exchange, "Upgrade").equalsIgnoreCase("websocket")) {
                    misled(exchange);
                } else if (path.equals("/trace") && mayTraceAsPage(exchange)) {
                    if (method.equals("GET")) stream(exchange);
                    else notAllowed(exchange, "GET");
                } else if (path.equals("/break") && mayTraceAsPage(exchange)) {
                    if (method.equals("POST")) breakRule(exchange);
                    else notAllowed(exchange, "POST");
                } else if (method.equals("OPTIONS")) {              // a health check
                    exchange.getResponseHeaders().set("Allow", "GET, HEAD, OPTIONS");
                    exchange.sendResponseHeaders(204, -1);
                } else if (Rooms.ofPath(path) == null) {
                    notFound(exchange, path);
                } else if (!get) {
                    notAllowed(exchange, "GET, HEAD");
                } else {
                    reply(exchange, 200, HTML, page(exchange, Rooms.ofPath(path)));
                }
            }
        }

        private static String header(HttpExchange exchange, String name) {
            return String.join(",", exchange.getRequestHeaders().getOrDefault(name, List.of()));
        }

        private static String host(HttpExchange exchange) {
            return WebSocket.Handshake.hostName(header(exchange, "Host"));
        }

        /// Whether a browser can rightly have asked us. It always sends Host, HTTP/1.0 need not.
        private boolean mayAsk(HttpExchange exchange) {
            boolean simple = exchange.getProtocol().equals("HTTP/1.0")
                    && !exchange.getRequestHeaders().containsKey("Host");
            return simple || access.isNameOfOurs(host(exchange));
        }

        /// Whether there is a trace, and a program at this machine asks for it, with no proxy
        /// between: that would add a header, or come by another port, or at least not pass
        /// Connection on (RFC 9110 §7.6.1).
        private boolean mayTrace(HttpExchange exchange) {
            if (!options.trace) return false;
            String us = access.address("http", host(exchange));
            for (String name : exchange.getRequestHeaders().keySet()) {
                String small = name.toLowerCase(Locale.ROOT);
                if (small.startsWith("x-forwarded") || small.equals("x-real-ip")) return false;
                if (small.equals("forwarded") || small.equals("via")) return false;
            }
            return exchange.getRemoteAddress().getAddress().isLoopbackAddress()
                    && us.endsWith("//" + header(exchange, "Host"))
                    && header(exchange, "Connection").equalsIgnoreCase("keep-alive");
        }

        /// And whether no page but ours asks (§10.2). Not all browsers send both of these headers.
        private boolean mayTraceAsPage(HttpExchange exchange) {
            String origin = header(exchange, "Origin"), site = header(exchange, "Sec-Fetch-Site");
            return mayTrace(exchange) && (site.isEmpty() || site.equals("same-origin"))
                    && (origin.isEmpty() || origin.equals(access.address("http", host(exchange))));
        }

        private void reply(HttpExchange exchange, int status, String type, String text)
                throws IOException {
            byte[] body = text.getBytes(UTF_8);
            boolean head = exchange.getRequestMethod().equals("HEAD");
            Headers headers = exchange.getResponseHeaders();
            headers.set("Content-Type", type + "; charset=utf-8");
            headers.set("Content-Length", String.valueOf(body.length));     // for HEAD, too
            headers.set("Cache-Control", "no-store");
            headers.set("Referrer-Policy", "no-referrer");
            headers.set("X-Content-Type-Options", "nosniff");
            headers.putIfAbsent("Content-Security-Policy", List.of("default-src 'none'"));
            exchange.sendResponseHeaders(status, head ? -1 : body.length);
            if (!head) exchange.getResponseBody().write(body);
        }

        private void notAllowed(HttpExchange exchange, String methods) throws IOException {
            exchange.getResponseHeaders().set("Allow", methods);
            reply(exchange, 405, TEXT, "What works here is " + methods + ".\n");
        }

        /// The page, told what it can't find out by itself. Nothing in a room's name, nor in a path
        /// that is one, means anything in HTML or in a script.
        private String page(HttpExchange exchange, String room) {
            String scheme = settings.tls == null ? "http:" : "https:";
            String us = access.address("http", "");                     // and, perhaps, a port
            String port = us.substring(scheme.length() + 2).replace(":", "");
            String sockets = (settings.tls == null ? "ws://*:" : "wss://*:") + webSocketPort();
            String known = "";
            if (options.publicUrl != null) {
                boolean slash = options.publicUrl.endsWith("/");
                int end = options.publicUrl.length() - (slash ? 1 : 0);
                String url = options.publicUrl.substring(0, end).replace("'", "%27");
                known = url + exchange.getRequestURI().getRawPath();
                sockets = url.substring(0, url.indexOf(':') + 1);
            }
            String nonce = UUID.randomUUID().toString();
            String mark = mayTrace(exchange) ? "?page=" + nonce.substring(0, 8) : "";
            exchange.getResponseHeaders().set("Content-Security-Policy",
                    POLICY.formatted(nonce, sockets));
            return PAGE.replace("{{nonce}}", nonce).replace("{{room}}", room)
                    .replace("{{page}}", scheme + port)
                    .replace("{{port}}", String.valueOf(webSocketPort()))
                    .replace("{{public}}", known)
                    .replace("{{mark}}", mark);
        }

        private void notFound(HttpExchange exchange, String path) throws IOException {
            boolean slash = path.length() > 1 && path.endsWith("/");
            String bare = slash ? path.substring(0, path.length() - 1) : path;
            if (slash && Rooms.ofPath(bare) != null) {
                String name = bare.substring(bare.lastIndexOf('/') + 1);
                exchange.getResponseHeaders().set("Location", "../" + name);
                reply(exchange, 308, TEXT, "There is a slash too many.\n");
                return;
            }
            // Relative, as a proxy may have taken the beginning of the path away.
            long folders = path.chars().filter(letter -> letter == '/').count() - 1;
            reply(exchange, 404, HTML, """
                    <!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>not found</title>
                    <h1>There is no such page</h1><p>A room is at /chat/NAME. The name has 1 to 64
                    letters, digits, - or _. Or go to <a href="./%s">the lobby</a>.
                    """.formatted("../".repeat((int) folders)));
        }

        /// A mapped port, or a proxy's rule that takes all for pages: its owner should hear of it.
        private void misled(HttpExchange exchange) throws IOException {
            log("a WebSocket handshake came to the page's port, as " + host(exchange)
                    + ": --public-url can tell the page where the WebSockets are");
            exchange.getResponseHeaders().set("Upgrade", "websocket");
            reply(exchange, 426, TEXT, "WebSockets are at port " + webSocketPort()
                    + ", at this one is the page.\n");
        }

        // ---- The wire ----

        /// What waits for one browser. Who can't keep up misses items, and is told how many. Then
        /// it begins anew with half a queue, or there would be gaps everywhere.
        static final class Watcher {
            private final BlockingQueue<Explained.Traced> items =
                    new ArrayBlockingQueue<>(MAX_TRACED);
            private int leftOut;

            synchronized void offer(Explained.Traced item) {
                if (leftOut > 0 && items.size() < MAX_TRACED / 2) items.add(gap());
                if (leftOut > 0 || !items.offer(item)) leftOut++;
            }

            Explained.Traced next() throws InterruptedException {
                synchronized (this) {
                    if (leftOut > 0 && items.isEmpty()) return gap();
                }
                return items.take();
            }

            private Explained.Traced gap() {
                String title = leftOut + " items were left out: too many for this browser";
                leftOut = 0;
                return new Explained.Traced(Explained.now(), 0, "", title, List.of());
            }
        }

        void offer(Explained.Traced item) {
            for (Watcher watcher : watchers) watcher.offer(item);
        }

        /// Tells a browser what is traced, as server-sent events, until either goes.
        private void stream(HttpExchange exchange) throws IOException {
            ports.takeAnyTime();
            Watcher watcher = new Watcher();
            exchange.getResponseHeaders().set("Content-Type", "text/event-stream; charset=utf-8");
            exchange.getResponseHeaders().set("Cache-Control", "no-store");
            exchange.sendResponseHeaders(200, 0);   // 0: without an end
            watchers.add(watcher);
            try (var out = new PrintStream(exchange.getResponseBody(), false, UTF_8)) {
                out.print(":\n\n");                 // a comment: from now on nothing is missed
                while (!out.checkError())           // which flushes, too
                    out.print(event(watcher.next()));
            } catch (InterruptedException closing) {    // by close()
            } finally {
                watchers.remove(watcher);
            }
        }

        /// A line with time, connection, direction and title; one for each row; and an empty line.
        private static String event(Explained.Traced item) {
            String connection = item.connection() == 0 ? "" : "#" + item.connection();
            var lines = new StringBuilder();
            addLine(lines, item.time(), connection, item.direction(), item.title());
            for (Explained.Row row : item.rows())
                addLine(lines, row.bytes(), row.name(), row.meaning());
            return lines.append('\n').toString();
        }

        private static void addLine(StringBuilder lines, String... columns) {
            lines.append("data: ").append(String.join("\t", columns)).append('\n');
        }

        // ---- A rule broken on purpose ----

        /// Reads bytes in hex, and sends them to this very server, over a connection of their own.
        /// What comes of it is in the trace; so is why nothing does.
        private void breakRule(HttpExchange exchange) throws IOException {
            byte[] body = exchange.getRequestBody().readNBytes(3 * MAX_BROKEN + 1);
            byte[] frames = parse(new String(body, US_ASCII));
            if (settings.tls != null) {
                refuse(exchange, 501, "Bytes can be sent only without --keystore.");
            } else if (body.length > 3 * MAX_BROKEN) {
                refuse(exchange, 413, "No more than " + MAX_BROKEN + " bytes, please.");
            } else if (frames.length == 0) {
                refuse(exchange, 400, "These are no bytes in hex, such as 81 00.");
            } else if (!breaking.tryAcquire()) {
                refuse(exchange, 503, "One at a time, please: the bytes before are under way.");
            } else {
                try {
                    send(frames);
                } finally {
                    breaking.release();
                }
                reply(exchange, 200, TEXT, "These bytes were sent.\n");
            }
        }

        /// @return no bytes if it is not hex
        private static byte[] parse(String hex) {
            try {
                return HexFormat.of().parseHex(hex.strip().replace(" ", ""));
            } catch (IllegalArgumentException noHex) {
                return new byte[0];
            }
        }

        private void refuse(HttpExchange exchange, int status, String why) throws IOException {
            offer(new Explained.Traced(Explained.now(), 0, "", why, List.of()));
            reply(exchange, status, TEXT, why + "\n");
        }

        /// To /echo, where it disturbs nobody. Returns when the server has answered all.
        private void send(byte[] frames) {
            try (Socket socket = new Socket()) {
                socket.connect(new InetSocketAddress(options.host, webSocketPort()), BREAK_TIME);
                socket.setSoTimeout(BREAK_TIME);
                String request = WebSocket.Handshake.request("/echo", "localhost",
                        WebSocket.Handshake.newKey(), false, List.of(), List.of());
                var in = new BufferedReader(new InputStreamReader(
                        socket.getInputStream(), ISO_8859_1));
                socket.getOutputStream().write(request.getBytes(US_ASCII));
                String line = in.readLine();
                while (line != null && !line.isEmpty()) line = in.readLine();
                socket.getOutputStream().write(frames);
                while (in.read() >= 0) continue;
            } catch (IOException ended) {           // by silence or a reset: the trace tells more
            }
        }
    }

    /// A client for a terminal or a pipe: each line that is typed is sent, each message printed.
    static final class Client {
        static final long PAUSE = 10_000_000;       // ns until it is seen that lines are taken
        static final long GOODBYE = 1_000_000_000;  // ns for the answer to our Close, after ^C
        static final String TRUST = "; to trust a certificate of your own: "
                + "java -Djavax.net.ssl.trustStore=FILE Chat.java --connect …";

        private final Options options;
        private WebSocket webSocket;

        Client(Options options) {
            this.options = options;
            boolean one = options.origins.size() <= 1 && !options.origins.toString().contains("*");
            if (!one) throw new IllegalArgumentException("--connect has one --origin, without *");
        }

        /// @return the exit code: 0 if it was closed as it should be, else 1
        int talk() throws IOException {
            webSocket = connect();
            String protocol = webSocket.protocol();
            tell("open: " + options.connect + (protocol == null ? "" : ", " + protocol));
            Runtime.getRuntime().addShutdownHook(new Thread(this::goAway));
            Thread.ofPlatform().daemon().name("input").start(this::sendLines);
            int code;
            try {
                while (webSocket.receive() instanceof WebSocket.Message message) print(message);
                code = webSocket.closeCode();
            } catch (WebSocket.Refusal refusal) {       // the log says why
                code = refusal.code;
            }
            String reason = webSocket.closeReason();
            tell("closed with " + code + ", " + meaning(code)
                    + (reason.isEmpty() ? "" : ": " + reason));
            WebSocket.Log.flush();
            return List.of(1000, 1001, 1005).contains(code) ? 0 : 1;
        }

        private WebSocket connect() throws IOException {
            var headers = new ArrayList<>(options.headers);
            for (Origin origin : options.origins) headers.add("Origin: " + origin);
            WebSocket.Settings settings = options.settings;
            if (options.trace)
                settings.wire = new Explained(Explained::print);
            try {
                return WebSocket.connect(options.connect, settings, headers, options.subprotocols);
            } catch (IOException failure) {
                WebSocket.Log.flush();
                throw new IOException("can't connect to " + options.connect + ": "
                        + WebSocket.printable(why(failure)));
            }
        }

        private static String why(IOException failure) {
            String message = String.valueOf(failure.getMessage());
            if (failure instanceof UnknownHostException) return "no host has this name: " + message;
            return failure.getCause() instanceof CertificateException ? message + TRUST : message;
        }

        /// Sends no faster than the server takes it, as a file may come in here.
        private void sendLines() {
            var in = new BufferedReader(new InputStreamReader(System.in, UTF_8));
            try {
                while (in.readLine() instanceof String line) {
                    webSocket.send(WebSocket.Message.text(line));
                    waitUntilTaken(options.settings.maxQueue / 2);
                }
            } catch (IOException unreadable) {
                tell("standard input can't be read: " + unreadable.getMessage());
            }
            waitUntilTaken(0);                          // after a Close there is little time
            webSocket.close(1000, "");
        }

        private void waitUntilTaken(int most) {
            while (webSocket.unwritten() > most) LockSupport.parkNanos(PAUSE);
        }

        /// A message is one line; if it holds more, these are set in.
        private void print(WebSocket.Message message) {
            byte[] payload = message.payload();
            if (message.isText())
                System.out.println(message.text().lines().map(WebSocket::printable)
                        .collect(Collectors.joining("\n    ")));
            else tell("BINARY, " + payload.length + " bytes: "
                    + Explained.hex(payload, 0, payload.length));
            if (System.out.checkError()) webSocket.close(1000, "");         // nobody reads on
        }

        /// When the program is stopped. After an orderly end there is nothing left to do.
        private void goAway() {
            long start = System.nanoTime();
            webSocket.close(1001, "");
            while (webSocket.state() != WebSocket.State.CLOSED
                    && System.nanoTime() - start < GOODBYE) LockSupport.parkNanos(PAUSE);
        }

        private static void tell(String line) {
            WebSocket.Log.print(WebSocket.printable(line));
        }

        /// §7.4.1, and the registry of §11.7
        private static String meaning(int code) {
            return switch (code) {
                case 1000 -> "done";
                case 1001 -> "going away";
                case 1002 -> "a rule was broken";
                case 1003 -> "the wrong kind of data";
                case 1005 -> "without a code";
                case 1006 -> "lost, without a Close";
                case 1007 -> "text that is not UTF-8";
                case 1008 -> "not allowed";
                case 1009 -> "a message was too long";
                case 1010 -> "an extension is missing";
                case 1011 -> "the server has a problem";
                case 1012 -> "the server starts again";
                case 1013 -> "try again later";
                case 1014 -> "a server behind the server has a problem";
                default -> "which has a meaning for this server only";
            };
        }
    }

    /// What the arguments ask for: which task, and how to do it. Nothing is begun here.
    static final class Options {
        static final String USAGE = """
            java Chat.java [OPTION ...]    serves a chat until it is stopped
              --host HOST          where to listen (localhost); 0.0.0.0 is everywhere
              --http-port PORT     of the page (8080); --ws-port PORT of WebSockets (12345); 0: any
              --public-url URL     ws:// or wss://, where browsers reach the WebSockets, if a proxy
                                   or a mapped port hides that from the page
              --origin ORIGIN      pages of this origin may connect, too; * is any; repeatable
              --max-message BYTES  of each (1048576); --max-queue BYTES for a slow reader (8388608)
              --max-memory BYTES   of all that waits, for all together (a quarter of the heap)
              --max-connections N  in all (10000); --max-per-address N, loopback apart (100)
              --keystore FILE      PKCS12, for https and wss
              --redis URL          joins servers: redis[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX]
              --trace              shows all that travels, here and in the page
              --no-deflate         without compression
            java Chat.java --connect URL    talks to a WebSocket server, ws:// or wss://, by lines
              --header 'NAME: VALUE', --subprotocol NAME: repeatable; one --origin ORIGIN
              The end of input closes with 1000; exit code 0: closed with 1000, 1001 or no code.
            java Chat.java --explain [HEX ...]    explains frames, given here or on standard input
            java Chat.java --help | --version
            Fixed: handshake 10 s, 16 KiB, 100 headers; ping after 25 s of silence, gone after 50 s;
            closing 5 s; 10000 rooms; letters in the name of a room 64, of a person 24. Passwords:
            CHAT_KEYSTORE_PASSWORD, CHAT_REDIS_PASSWORD.""";
        static final int MAX_BYTES = 1 << 30;       // what one array and one option may hold

        enum Task { SERVE, CONNECT, EXPLAIN, HELP, VERSION }

        Task task = Task.SERVE;
        String host = "localhost", publicUrl;       // publicUrl: null if the page finds out
        int httpPort = 8080, wsPort = 12345, maxConnections = 10_000, maxPerAddress = 100;
        boolean trace;
        URI redis, connect;
        final WebSocket.Settings settings = new WebSocket.Settings();
        final Set<Origin> origins = new LinkedHashSet<>();
        final List<String> headers = new ArrayList<>(), subprotocols = new ArrayList<>();
        private final Words words;

        /// @throws IllegalArgumentException with a sentence for whoever typed this
        Options(String... arguments) {
            settings.log = Chat::log;
            words = new Words(arguments);
            while (task != Task.EXPLAIN && words.next() instanceof String name) read(name);
        }

        private void read(String name) {
            switch (name) {
                case "--host" -> host = Origin.name(words.value());
                case "--http-port" -> httpPort = (int) words.number(0, 65535);
                case "--ws-port" -> wsPort = (int) words.number(0, 65535);
                case "--public-url" -> publicUrl = words.url("ws", "wss").toString();
                case "--origin" -> origins.add(origin(words.value()));
                case "--max-message" -> settings.maxMessage = (int) words.number(1, MAX_BYTES);
                case "--max-queue" -> settings.maxQueue = (int) words.number(1, MAX_BYTES);
                case "--max-memory" ->
                    settings.memory = new WebSocket.Memory(words.number(1, Long.MAX_VALUE));
                case "--max-connections" -> maxConnections = (int) words.number(1, 1 << 24);
                case "--max-per-address" -> maxPerAddress = (int) words.number(1, 1 << 24);
                case "--keystore" -> settings.tls = keys(words.value());
                case "--redis" -> redis = redis(words.url("redis", "rediss"));
                case "--connect" -> {
                    task = Task.CONNECT;
                    connect = words.url("ws", "wss");
                }
                case "--header" -> headers.add(header(words.value()));
                case "--subprotocol" -> subprotocols.add(words.value());
                case "--no-deflate" -> settings.deflate = false;
                case "--trace" -> trace = true;
                case "--help" -> task = Task.HELP;
                case "--version" -> task = Task.VERSION;
                case "--explain" -> task = Task.EXPLAIN;
                default -> throw words.wrong("is not an option");
            }
        }

        private Origin origin(String text) {
            Origin origin = Origin.of(text);
            if (origin != null) return origin;
            throw words.wrong("can't be " + text + ": it is SCHEME://HOST[:PORT] without a path, "
                    + "https://*.HOST, null, or *");
        }

        private SSLContext keys(String file) {
            try {
                return Keys.read(file);
            } catch (IOException | GeneralSecurityException | IllegalArgumentException failure) {
                throw words.wrong(file + ": " + failure.getMessage()
                        + " (its password comes from CHAT_KEYSTORE_PASSWORD)");
            }
        }

        private String header(String header) {
            if (WebSocket.Head.isHeader(header)) return header;
            throw words.wrong("can't be " + header);
        }

        private URI redis(URI url) {                            // its path stands in patterns
            boolean plain = WebSocket.isMadeOf(url.getRawPath(), "-._~/");
            if (plain && url.getRawQuery() == null) return url;
            throw words.wrong("can't have this path: " + Words.shown(url.toString()));
        }

        /// The bytes for --explain: the words after it, or else what standard input holds.
        byte[] frames() {
            Collection<String> given = words.rest();
            if (given.isEmpty()) given = new Scanner(System.in).tokens().toList();
            String hex = String.join("", given);
            for (String between : List.of("0x", ":", ",", " ")) hex = hex.replace(between, "");
            try {
                return HexFormat.of().parseHex(hex);
            } catch (IllegalArgumentException noHex) {
                throw words.wrong("takes bytes in hex, such as 81 00");
            }
        }
    }

    /// The words of a command line, one after the other: an option's name, its value.
    static final class Words {
        private final Queue<String> words = new ArrayDeque<>();
        private String name;                        // of the option that is being read

        Words(String... arguments) {
            for (String word : arguments) {
                boolean both = word.startsWith("--") && word.contains("=");   // --flag=value
                words.addAll(both ? List.of(word.split("=", 2)) : List.of(word));
            }
        }

        Collection<String> rest() { return words; }

        /// The next option, or null if there is none.
        String next() {
            name = words.poll();
            return name;
        }

        String value() {
            if (words.isEmpty()) throw wrong("needs a value");
            if (!words.peek().isBlank()) return words.remove();
            throw wrong("can't be '" + words.peek() + "'");
        }

        long number(long least, long most) {
            String digits = value();
            boolean right = WebSocket.isNumber(digits) && digits.length() < 19;     // fits a long
            if (right && Long.parseLong(digits) >= least && Long.parseLong(digits) <= most)
                return Long.parseLong(digits);
            throw wrong("is a number from " + least + " to " + most + ", not " + digits);
        }

        URI url(String... schemes) {
            String text = value();
            try {
                URI url = new URI(text);
                if (Arrays.asList(schemes).contains(url.getScheme()) && hasHost(url)
                        && url.getPort() < 65536 && url.getRawFragment() == null) return url;
            } catch (URISyntaxException wrong) {
                // told below
            }
            throw wrong("can't be " + shown(text));
        }

        /// URI itself finds no host in a name with _, as Docker Compose gives them.
        private static boolean hasHost(URI url) {
            String authority = url.getRawAuthority();
            if (url.getHost() != null) return true;
            if (authority == null) return false;
            String hostAndPort = authority.substring(authority.lastIndexOf('@') + 1);
            return WebSocket.Handshake.hostName(hostAndPort) != null;
        }

        /// A URL without the password that may be in it.
        static String shown(String url) {
            int at = url.lastIndexOf('@');
            return at < 0 ? url : "…" + url.substring(at);
        }

        IllegalArgumentException wrong(String why) {
            return new IllegalArgumentException(name + " " + why);
        }
    }

    /// The key and the certificate of a server with TLS.
    static final class Keys {
        static SSLContext read(String file) throws IOException, GeneralSecurityException {
            String password = System.getenv().getOrDefault("CHAT_KEYSTORE_PASSWORD", "");
            KeyStore keys = KeyStore.getInstance(new File(file), password.toCharArray());
            check(file, keys);
            var factory = KeyManagerFactory.getInstance("PKIX");
            factory.init(keys, password.toCharArray());
            SSLContext tls = SSLContext.getInstance("TLS");
            tls.init(factory.getKeyManagers(), null, null);
            return tls;
        }

        /// There must be a key with a certificate that is valid today: else the server would
        /// start, and every connection would fail.
        private static void check(String file, KeyStore keys) throws KeyStoreException {
            String why = " holds no private key, so no server can use it";
            for (String alias : Collections.list(keys.aliases()))
                if (keys.isKeyEntry(alias)
                        && keys.getCertificate(alias) instanceof X509Certificate certificate)
                    try {
                        certificate.checkValidity();
                        return;
                    } catch (CertificateException past) {
                        why = ": its certificate is valid from " + certificate.getNotBefore()
                                .toInstant() + " to " + certificate.getNotAfter().toInstant();
                    }
            throw new UncheckedIOException(new IOException("--keystore " + file + why));
        }
    }

    /// Output for people. Where there is no UTF-8 (LANG=C, old consoles) it is ASCII, to be read.
    static final class Terminal extends PrintStream {
        Terminal(PrintStream out) { super(out, true, out.charset()); }

        @Override
        public void print(String text) {
            var encoder = charset().newEncoder();
            if (encoder.canEncode(text)) super.print(text);
            else for (int c : text.codePoints().toArray()) {
                String each = Character.toString(c);
                super.print(encoder.canEncode(each) ? each : inAscii(c));
            }
        }

        private static String inAscii(int codePoint) {
            return switch (codePoint) {
                case '§' -> "section ";
                case '…' -> "...";
                default -> "\\u{" + Integer.toHexString(codePoint) + "}";
            };
        }
    }

    /// Both ports, at all addresses: who comes to one is given to `guests`, requests of the other
    /// (the JDK's server) to `page`.
    static final class Ports {
        static final int BACKLOG = 4096;            // connections that wait to be accepted
        static final int ATTEMPTS = 20;             // at a port that is free at all addresses
        static final int PAGE_TIME = 30;            // s to take the page: 4 kB/s are enough

        private interface Guests { void accept(Socket socket) throws IOException; }
        private interface Opener { int open(InetSocketAddress address) throws IOException; }

        private final Options options;
        private final HttpHandler page;
        private final Guests guests;
        private final List<ServerSocket> listeners = new CopyOnWriteArrayList<>();
        private final List<HttpServer> pageServers = new CopyOnWriteArrayList<>();
        private final ExecutorService pageThreads = Executors.newVirtualThreadPerTaskExecutor();
        private final Map<Thread, Future<?>> deadlines = new ConcurrentHashMap<>();
        private final ScheduledExecutorService clock =
                Executors.newScheduledThreadPool(1, Thread.ofVirtual().factory());

        Ports(Options options, HttpHandler page, Guests guests) {
            this.options = options;
            this.page = page;
            this.guests = guests;
        }

        int http() { return pageServers.getFirst().getAddress().getPort(); }
        int webSocket() { return listeners.getFirst().getLocalPort(); }
        boolean isLocal() { return listeners.getFirst().getInetAddress().isLoopbackAddress(); }

        /// Takes all ports, and serves nobody yet.
        void open() throws IOException {
            try (var helper = Executors.newSingleThreadExecutor()) {        // its end is waited for
                helper.execute(Ports::prepare);
                limitThePage();
                List<InetAddress> addresses = addresses();
                bind(addresses, "--ws-port", options.wsPort, this::listenAt, this::closeListeners);
                bind(addresses, "--http-port", options.httpPort, this::openPage, this::dropPages);
            }
        }

        void start() {
            for (HttpServer server : pageServers) server.start();
            for (ServerSocket listener : listeners)
                Thread.ofPlatform().name("listen").start(() -> listen(listener));
        }

        void close() {
            for (ServerSocket listener : listeners)
                try { listener.close(); } catch (IOException closed) { }
            for (HttpServer server : pageServers) server.stop(0);
            pageThreads.shutdownNow();
            clock.shutdownNow();
        }

        /// The JDK's server takes its limits from system properties; who runs the program may have
        /// set others. Times are in seconds. There is no limit for one address.
        private static void limitThePage() {
            Properties limits = System.getProperties();
            limits.putIfAbsent("sun.net.httpserver.maxReqTime", "10");     // for a whole request
            limits.putIfAbsent("sun.net.httpserver.idleInterval", "30");   // until the next one
            limits.putIfAbsent("sun.net.httpserver.maxReqHeaderSize", "32768"); // with all cookies
            limits.putIfAbsent("jdk.httpserver.maxConnections", "1000");
            limits.putIfAbsent("sun.net.httpserver.nodelay", "true");   // or answers wait 40 ms
        }

        /// localhost is all that this name can mean here: else another program could sit at the
        /// same port of [::1], and would get the browsers that look for this one.
        private List<InetAddress> addresses() throws IOException {
            if (!options.host.equals("localhost"))
                try {
                    return List.of(InetAddress.getByName(options.host));
                } catch (UnknownHostException unknown) {
                    throw new IOException("--host " + options.host + " can't be resolved");
                }
            var found = new ArrayList<InetAddress>();
            for (String each : List.of("127.0.0.1", "::1")) {
                InetAddress address = InetAddress.getByName(each);
                if (NetworkInterface.getByInetAddress(address) != null) found.add(address);
            }
            return found;
        }

        /// Opens one port at all addresses. If any port will do, one that is free at the first
        /// address may be taken at the next: then all is tried again with another.
        private void bind(List<InetAddress> addresses, String option, int port, Opener opener,
                Runnable undo) throws IOException {
            for (int attempt = 1; ; attempt++)
                try {
                    int same = port;
                    for (InetAddress address : addresses)
                        same = opener.open(new InetSocketAddress(address, same));
                    return;
                } catch (IOException failure) {
                    undo.run();
                    if (port == 0 && addresses.size() > 1 && attempt < ATTEMPTS) continue;
                    throw new IOException("can't listen at --host " + options.host + " " + option
                            + " " + port + ": " + failure.getMessage()
                            + (port == 0 ? "" : ". Choose another port, 0 for any"));
                }
        }

        private int listenAt(InetSocketAddress address) throws IOException {
            var listener = new ServerSocket();
            listeners.add(listener);
            listener.bind(address, BACKLOG);
            return listener.getLocalPort();
        }

        private void closeListeners() {
            for (ServerSocket listener : listeners)
                try { listener.close(); } catch (IOException closed) { }
            listeners.clear();
        }

        private int openPage(InetSocketAddress address) throws IOException {
            try (var probe = new ServerSocket()) {              // HttpServer leaks its socket if
                probe.bind(address);                            // the port is taken
            }
            SSLContext tls = options.settings.tls;
            HttpServer server = tls == null ? HttpServer.create(address, 0, "/", page)
                    : HttpsServer.create(address, 0, "/", page);
            pageServers.add(server);
            if (server instanceof HttpsServer https)
                https.setHttpsConfigurator(new HttpsConfigurator(tls));
            server.setExecutor(request -> pageThreads.execute(() -> withinTime(request)));
            return server.getAddress().getPort();
        }

        /// Gives up servers that did not start. Only one that runs closes all that it has opened.
        private void dropPages() {
            for (HttpServer server : pageServers) {
                server.start();
                server.stop(0);
            }
            pageServers.clear();
        }

        /// What the JDK opens at its first use, it never gets if there are no file descriptors at
        /// that moment: SHA-1, what virtual threads need to wait for bytes, the log's time, random
        /// numbers for the page. So all are used before anyone comes, while the ports are opened.
        private static void prepare() {
            WebSocket.Handshake.acceptValue("");
            try (var listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
                listener.setSoTimeout(1);
                Thread.startVirtualThread(() -> {
                    try { listener.accept().close(); } catch (IOException nobody) { }
                }).join();
            } catch (IOException | InterruptedException tooFew) {
                // the ports will need some, too, and say so
            }
            Explained.now();
            UUID.randomUUID();
        }

        private void listen(ServerSocket listener) {
            while (!listener.isClosed())
                try {
                    accept(listener);
                } catch (Throwable untold) {                    // no memory, not even for the log
                    LockSupport.parkNanos(PAUSE);
                }
        }

        private void accept(ServerSocket listener) {
            try {
                guests.accept(listener.accept());
            } catch (Throwable failure) {       // whatever it is, the next may have better luck
                if (listener.isClosed()) return;
                LockSupport.parkNanos(PAUSE);
                log("can't accept a connection: " + failure);
            }
        }

        /// Whoever doesn't take the page in time is given up: an interrupt closes the channel.
        private void withinTime(Runnable request) {
            Thread thread = Thread.currentThread();
            Future<?> deadline = clock.schedule(thread::interrupt, PAGE_TIME, TimeUnit.SECONDS);
            deadlines.put(thread, deadline);
            try {
                request.run();
            } finally {
                deadline.cancel(false);
                deadlines.remove(thread);
            }
        }

        /// For a request whose answer has no end, as the wire's.
        void takeAnyTime() { deadlines.get(Thread.currentThread()).cancel(false); }

        /// By which addresses are counted. Who has IPv6 has a whole network (/64) of them.
        static InetAddress network(InetAddress address) {
            byte[] bytes = address.getAddress();
            if (bytes.length > 4) Arrays.fill(bytes, 8, 16, (byte) 0);
            try {
                return InetAddress.getByAddress(bytes);
            } catch (UnknownHostException wrongLength) {
                throw new AssertionError(wrongLength);
            }
        }
    }

    /// Where a page is from (RFC 6454), in the one form in which two can be compared. `*` is any,
    /// `null` is what browsers say of pages in files. The port is 0 for what has none.
    record Origin(String scheme, String host, int port) {
        static final int MAX_LENGTH = 300;          // characters: the longest DNS name has 253

        /// null if no browser and no app can have this origin.
        static Origin of(String text) {
            if (text.equals("*") || text.equals("null")) return new Origin(text, "", 0);
            int end = text.indexOf("://");
            if (end < 1 || text.length() > MAX_LENGTH) return null;
            String scheme = text.substring(0, end).toLowerCase(Locale.ROOT);
            String rest = text.substring(end + 3);
            int colon = rest.lastIndexOf(':');
            boolean hasPort = colon > rest.lastIndexOf(']');
            String port = rest.substring(colon + 1);
            String host = name(hasPort ? rest.substring(0, colon) : rest);
            if (!isScheme(scheme) || !isHost(scheme, host)) return null;
            if (!hasPort) return new Origin(scheme, host, usualPort(scheme));
            return isPort(port) ? new Origin(scheme, host, Integer.parseInt(port)) : null;
        }

        /// @return 0 for schemes that have none
        static int usualPort(String scheme) {
            return switch (scheme) {
                case "http" -> 80;
                case "https" -> 443;
                default -> 0;
            };
        }

        private static boolean isPort(String port) {
            return WebSocket.isNumber(port) && port.length() < 6 && !port.startsWith("0")
                    && Integer.parseInt(port) < 65536;
        }

        /// Apps and extensions of browsers have schemes of their own; these have no pages.
        private static boolean isScheme(String scheme) {
            boolean ofNoPage = List.of("ws", "wss", "ftp").contains(scheme);
            return WebSocket.isMadeOf(scheme, "-.+") && !ofNoPage;
        }

        private static boolean isHost(String scheme, String host) {
            if (host.isEmpty()) return scheme.equals("file");
            boolean web = scheme.startsWith("http");
            String name = web && host.startsWith("*.") ? host.substring(2) : host;
            if (name.startsWith("[")) return name.endsWith("]");
            return !name.isEmpty() && !name.startsWith(".") && WebSocket.isMadeOf(name, "-._");
        }

        /// The name of a host as browsers say it: small letters, no dot at its end, letters of
        /// other scripts as xn--…, IPv6 in one form with brackets, IPv4 without IPv6 around it.
        static String name(String host) {
            String name = host.toLowerCase(Locale.ROOT);
            if (name.endsWith(".")) name = name.substring(0, name.length() - 1);
            try {
                if (!name.contains(":")) return name.length() > 253 ? name : IDN.toASCII(name);
                InetAddress address = InetAddress.getByName(name);      // asks no DNS about this
                boolean six = address instanceof Inet6Address;
                return six ? "[" + shortest(address) + "]" : address.getHostAddress();
            } catch (UnknownHostException | IllegalArgumentException wrong) {
                return name;
            }
        }

        private static String shortest(InetAddress six) {       // RFC 5952: :: for the most zeros
            String all = ":" + six.getHostAddress() + ":";
            int zeros = 8;
            while (zeros > 1 && !all.contains(":0".repeat(zeros) + ":")) zeros--;
            if (zeros > 1) {
                int start = all.indexOf(":0".repeat(zeros) + ":");
                all = all.substring(0, start) + "::" + all.substring(start + 2 * zeros + 1);
            }
            int from = all.startsWith("::") ? 0 : 1, to = all.endsWith("::") ? 0 : 1;
            return all.substring(from, all.length() - to);
        }

        boolean allows(Origin other) {
            if (scheme.equals("*")) return true;
            return other != null && scheme.equals(other.scheme) && isOf(other.host)
                    && port == other.port;
        }

        /// `*.example.com` is every name that ends so, and not example.com itself.
        boolean isOf(String name) {
            if (name.startsWith("*")) return false;             // which no browser says
            boolean within = host.startsWith("*.") && name.endsWith(host.substring(1));
            return scheme.equals("*") || within || host.equals(name);
        }

        /// Whether the host is a number, which no DNS can point elsewhere.
        boolean isAddress() {
            return host.startsWith("[") || Character.isDigit(host.charAt(host.length() - 1));
        }

        @Override
        public String toString() {
            if (host.isEmpty() && !scheme.equals("file")) return scheme;
            return scheme + "://" + host + (port == usualPort(scheme) ? "" : ":" + port);
        }
    }

    /// Who may connect: under which names this server is called, and whose pages may.
    static final class Access {
        private final Options options;
        private final Ports ports;

        Access(Options options, Ports ports) {
            this.options = options;
            this.ports = ports;
        }

        /// The address of the page (http) or of the WebSockets (ws), as in an Origin: the usual
        /// port is left out.
        String address(String scheme, String host) {
            String start = scheme + (isSecure() ? "s" : "") + "://" + host;
            int port = scheme.equals("ws") ? ports.webSocket() : ports.http();
            int usual = Origin.usualPort(isSecure() ? "https" : "http");
            return port == usual ? start : start + ":" + port;
        }

        private boolean isSecure() { return options.settings.tls != null; }

        /// On the loopback address only its own names will do: any web page can let a name of its
        /// own point to 127.0.0.1, and would be "the same origin" as this server (DNS rebinding).
        /// @param host as a client calls this server, or null
        boolean isNameOfOurs(String host) {
            if (host == null) return false;
            return !ports.isLocal() || isOnlyOurs(Origin.name(host));
        }

        /// Whether nobody else's DNS can let this name point here.
        private boolean isOnlyOurs(String name) {
            for (Origin origin : options.origins)
                if (origin.isOf(name)) return true;
            return List.of("localhost", "127.0.0.1", "[::1]", options.host).contains(name);
        }

        /// §10.2: Origin says which page wants to connect. Only browsers can be relied on to say
        /// so; any other program says nothing or what it likes, and can come in by saying nothing.
        /// @param origin the header, or null
        /// @param dialled the header Host: by which name and port we are called
        boolean allows(String origin, String dialled) {
            if (origin == null) return true;
            Origin page = Origin.of(origin);
            for (Origin allowed : options.origins)
                if (allowed.allows(page)) return true;
            Origin called = Origin.of((isSecure() ? "https://" : "http://") + dialled);
            if (page == null || called == null) return false;
            Origin ours = Origin.of(address("http", called.host));
            return page.equals(ours) || isOfNoPage(page, called);
        }

        /// Many programs send the WebSocket's own address as Origin: http://HOST:PORT, with the
        /// port of our WebSockets. No page has this origin, as that port sends none. So it is as
        /// safe as no Origin at all. But HOST must be a number, or a name that only we can have:
        /// else a stranger could first send a page from this port of a server of their own, and
        /// then let its name point here.
        private boolean isOfNoPage(Origin origin, Origin called) {
            int port = ports.webSocket();
            boolean web = Origin.usualPort(origin.scheme) > 0;              // http or https
            boolean same = web && origin.host.equals(called.host)
                    && origin.port == port && called.port == port;
            return same && (called.isAddress() || isOnlyOurs(called.host));
        }
    }

    /// What the browser gets.
    static final String PAGE = """
<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{{room}}</title><meta name="viewport"
  content="width=device-width, initial-scale=1, interactive-widget=resizes-content">
<link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'
  viewBox='0 0 8 8'><path fill='royalblue' d='M0 1h8v5H4L2 8V6H0z'/></svg>">
<style nonce="{{nonce}}">
  :root { color-scheme: light dark; --paper: #fff; --ink: #1c2128; --soft: #f1f3f6;
    --quiet: #5c646e; --rule: #dde1e6; --accent: #2458c8; --own: #dfeaff; --alarm: #b3261e;
    --alive: #2b8a3e; --name: .48 .14; --field: .91 .07; }
  @media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e4e7eb; --soft: #24282e;
    --quiet: #98a1ac; --rule: #343a42; --accent: #8db4ff; --own: #23396a; --alarm: #ff9d92;
    --alive: #69db7c; --name: .8 .11; --field: .37 .08; } }
  * { box-sizing: border-box; margin: 0; padding: 0; }
  body { display: flex; flex-direction: column; height: 100vh; height: 100dvh; color: var(--ink);
    background: var(--paper); font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
  main { flex: 1; display: grid; min-height: 0;
    grid: "log" minmax(0, 1fr) "wire" fit-content(55%) "say" auto / minmax(0, 1fr); }
  input, button, select, .text { padding: 5px 12px; border: 1px solid transparent;
    border-radius: 14px; font: inherit; color: inherit; }  /* forced colours show the border */
  button { background: var(--accent); color: var(--paper); cursor: pointer; }
  input, select, .text, #toggle, #wire { background: var(--soft); color: var(--ink); }
  input, select { border-color: var(--quiet); } ::placeholder { color: var(--quiet); opacity: 1; }
  a { color: var(--accent); } :focus-visible { outline: 2px solid var(--accent); }
  header, #chat-echo-area, #say { padding: 12px max(16px, (100% - 46rem) / 2); }
  header, #say, .row, #break { display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: center; }
  header, #frames li { border-bottom: 1px solid var(--rule); } h1 { font-size: 1.125rem; }
  #status, .name, .notice, #hint, #wire, li::before { font-size: .8125rem; }
  #status, .notice, li::before { color: var(--quiet); } #status { flex: 1 1 8rem; }
  #status::before { content: "● "; content: "● " / ""; color: var(--alarm); }
  .connected #status::before { color: var(--alive); } #messages { grid-area: log; }
  #messages, #chat-echo-area, .said, #wire { display: flex; min-height: 0; }
  #chat-echo-area, .said, #wire { flex-direction: column; } #wire { grid-area: wire; }
  ul { flex: 1; position: relative; overflow: hidden auto; list-style: none; }
  .said, .notice { flex: none; margin-top: 12px; white-space: pre-wrap; }
  .again, .notice + .notice { margin-top: 2px; } .notice { text-align: center; }
  #chat-echo-area :first-child { margin-top: auto; }  /* a short log sits at the bottom */
  [data-time]::before { content: attr(data-time); display: block; text-align: center; }
  .name { padding-left: 12px; font-weight: 600; color: oklch(var(--name) var(--hue)); }
  .own .name, .again .name { position: absolute; clip-path: inset(50%); }  /* read aloud only */
  .name, .text { align-self: flex-start; max-width: min(88%, 36rem); }
  .own .text { align-self: flex-end; background: var(--own); }
  #say { grid-area: say; position: relative; } #hint { flex: 1 0 100%; color: var(--alarm); }
  #chat-input { flex: 1; min-width: 0; padding: 9px 14px; } #send { align-self: stretch; }
  #new { position: absolute; bottom: 100%; left: 50%; transform: translate(-50%, -8px); }
  #frames li, #break { padding: 8px 12px; } #bytes { flex: 1 1 9rem; min-width: 0; }
  #wire.quiet .ping, span:empty, [hidden] { display: none !important; } .field { width: 25ch; }
  .row p { flex: 1 1 9rem; display: flex; flex-wrap: wrap; } .row span { flex: 1 1 11rem; }
  code { align-self: flex-start; padding: 0 4px; border-radius: 4px;
    font: 1em/1.5 ui-monospace, monospace; background: oklch(var(--field) var(--hue)); }
  @media (min-width: 760px) { .wired header { padding: 12px 16px; } .wired main {
    grid: "log wire" minmax(0, 1fr) "say wire" auto / minmax(0, 2fr) minmax(0, 3fr); } }
</style>
<header><h1>{{room}}</h1>
  <p id="status"><span id="state" role="status"></span><span id="people"></span></p>
  <button id="toggle" aria-controls="wire" hidden>wire</button></header>
<main><noscript>This chat needs JavaScript.</noscript>
  <div id="messages" role="log" aria-label="messages"><ul id="chat-echo-area" tabindex="0"></ul>
  </div><div id="say"><p id="hint" role="alert"></p>
    <input id="chat-input" placeholder="say something" aria-label="message" autocomplete="off"
      dir="auto" enterkeyhint="send" autofocus>
    <button id="send">Send</button><button id="new" hidden></button></div>
  <section id="wire" aria-label="bytes on the wire" hidden>
    <ul id="frames" aria-label="frames" tabindex="0"></ul>
    <form id="break"><select id="example" aria-label="examples"><option value="">Break a rule …
        <option value="81 05 48 65 6c 6c 6f">a frame without a mask
        <option value="c1 85 37 fa 21 3d 7f 9f 4d 51 58">a reserved bit
        <option value="88 82 37 fa 21 3d 34 17">a CLOSE with code 1005
        <option value="80 82 37 fa 21 3d 5f 93">a fragment without a beginning
        <option value="81 82 37 fa 21 3d f7 7a">text that is no UTF-8</select>
      <input id="bytes" aria-label="bytes in hex" placeholder="bytes in hex" autocomplete="off">
      <button>Send</button><label><input id="pings" type="checkbox" checked> pings</label></form>
  </section></main>
<script type="module" nonce="{{nonce}}">
const byId = id => document.getElementById(id);
const [log, input, hint, wire] = ['chat-echo-area', 'chat-input', 'hint', 'wire'].map(byId);
const [TAB, LF, CR] = String.fromCharCode(9, 10, 13);
const LINE_BREAK = '⏎';  // stands for LF in the <input>, which cannot hold one
const room = document.title;

// What this tab remembers when it is loaded again. Storage can be blocked: then nothing.
function keep(key, value) { try { sessionStorage.setItem(key, value); } catch { } }
function kept(key) { try { return sessionStorage.getItem(key) ?? ''; } catch { return ''; } }

// ---- The connection. All that the page knows, it learns from the events that it hears. ----

// The server has two ports, one for the page. Who came by another came through a proxy or a mapped
// port, which then has to take both. What the page can't find out, --public-url says.
const { protocol, port, host, hostname, pathname } = location;
const way = protocol + port === '{{page}}' ? hostname + ':{{port}}' : host;
const address = '{{public}}' || protocol.replace('http', 'ws') + '//' + way + pathname;
const mark = '{{mark}}';    // tells our connection in the trace; empty if that is not for us

const unconfirmed = [];     // said, but not heard back yet
let wanted = kept('name');  // to be had again after a loss
let socket, me, people, retry, watchdog, failures = 0, hiddenAnswers = 0;

function connect() {
  clearTimeout(retry);
  show('connecting …');
  socket = new WebSocket(address + mark, 'presence');
  socket.onmessage = event => hear(event.data);
  socket.onclose = event => lost(event.code);
  expectEvent();
}

// A dead connection can look alive for minutes. But what is asked brings some event back.
const expectEvent = () => { watchdog ??= setTimeout(lost, 20_000); };
const ask = line => { socket.send(line); expectEvent(); };
const probe = () => { hiddenAnswers++; ask('/who (asked by the page itself)'); };

// The server's own reason is not for users' eyes (RFC 6455 section 5.5.1); its code is.
const CAUSES = { 1001: ': the server is stopping', 1003: ': only text is taken here',
  1008: ': a rule was broken', 1009: ': a message was too long', 1011: ': the server failed' };

function lost(code) {
  const state = me ? 'connection lost' : 'no connection';
  if (me) addNotice(`Connection lost${CAUSES[code] ?? ''}.`);
  else if (!retry) addNotice(`No answer from ${address}: down, full or blocked? See --public-url`);
  socket.onmessage = socket.onclose = null; socket.close();
  clearTimeout(watchdog);
  socket = me = people = watchdog = undefined;
  // Growing, and different in each browser, lest all come back at once (section 7.2.3).
  const seconds = Math.round(Math.min(30, 2 ** failures++) * (1 + Math.random()));
  retry = setTimeout(connect, seconds * 1000);
  show(`${state}, trying again in ${seconds} s`);
  if (unconfirmed.length) hint.textContent = code === 1009
    ? 'Too long for the server: please shorten it.' : 'This may not have arrived.';
  input.value = unsent(); unconfirmed.length = 0;
}

function wake() {
  keep('unsent ' + room, unsent());
  if (!socket) connect();
  else if (me) probe();
}

function hear(event) {
  const [kind, name = ''] = event.split(' ', 2);
  const text = event.slice(kind.length + name.length + 2);
  clearTimeout(watchdog); watchdog = undefined;
  switch (kind) {
    case 'you': rename(name); break;
    case 'joined': people = text; addNotice(person(name), ' has joined.'); break;
    case 'left': people = text; addNotice(person(name), ' has left.'); break;
    case 'renamed': addNotice(person(name), ' is now ', person(text), '.'); break;
    case 'said': if (name === me) unconfirmed.shift(); addSaid(name, text); break;
    case 'note': addNotice(event.slice(5)); break;
    case 'here':
      people = name;
      if (text && hiddenAnswers) hiddenAnswers--;
      else if (text) addNotice(`${name} here:`, ...text.split(' ').flatMap(n => [' ', person(n)]));
  }
  if (unconfirmed.length || hiddenAnswers) expectEvent();
  show('connected as ' + me);
}

/** The first name on a connection is given; each later one is wanted again after a loss. */
function rename(name) {
  if (me) wanted = name;
  else failures = hiddenAnswers = 0;
  me = name; keep('name', wanted);
  if (wanted && wanted !== me) ask('/nick ' + wanted);
}

// ---- What one sees ----

let unread = 0, lastName, lastTime, lastLine = '';

function show(state) {
  if (byId('state').textContent !== state) byId('state').textContent = state;  // read aloud
  byId('people').textContent = people ? `, ${people} here` : '';
  document.body.classList.toggle('connected', Boolean(me));
}

function create(tag, className, ...children) {
  const element = Object.assign(document.createElement(tag), { className });
  element.append(...children);
  return element;
}

/** Makes a list's adder: it works in batches, keeps the newest, follows a reader at the end. */
function adder(list, limit, onLook = () => {}) {
  let waiting = [], atEnd = true;
  const look = () => {
    atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
    onLook(atEnd);
  };
  const follow = () => { if (atEnd) list.scrollTop = list.scrollHeight; };
  const flush = () => {
    look();
    list.append(...waiting.splice(0).slice(-limit));
    while (list.childElementCount > limit) list.firstElementChild.remove();
    follow();
  };
  new ResizeObserver(follow).observe(list);
  list.onscroll = look;
  addEventListener('visibilitychange', look);
  return item => { if (waiting.push(item) === 1) setTimeout(flush, 16); };  // hidden or not
}

const addTraced = adder(byId('frames'), 200);
const addItem = adder(log, 1000, atEnd => {
  if (atEnd && !document.hidden) unread = 0;
  byId('new').hidden = !unread;
  byId('new').textContent = `${unread} new`;
  document.title = (unread ? `(${unread}) ` : '') + room;
});

const CLOCK = new Intl.DateTimeFormat([], { dateStyle: 'medium', timeStyle: 'short' });
function addLine(name, item) {
  const time = CLOCK.format();
  if (time !== lastTime) item.dataset.time = time;
  [lastName, lastTime] = [name, time];
  addItem(item);
}

const person = name => create('bdi', '', name);
const addNotice = (...parts) => addLine('', create('li', 'notice', ' .... ', ...parts));

function addSaid(name, text) {
  const look = (name === me ? 'said own' : 'said') + (name === lastName ? ' again' : '');
  const item = create('li', look, create('bdi', 'name', name, ': '), linked(text));
  item.style.setProperty('--hue', hueOf(name));
  unread++;
  addLine(name, item);
}

// The golden angle keeps user-1 and user-2 apart; the style sheet sees to the contrast.
const hueOf = name => [...name].reduce((sum, letter) =>
  (sum * 31 + letter.codePointAt()) % 9973, 0) * 137.5 % 360;

// No blanks, quotes, angle brackets; parentheses in pairs; no full stop or the like at the end.
const LINK = RegExp('(https?://(?:[(]X*[)]|X)*(?:[(]X*[)]|(?![.,:;!?])X))'
  .replaceAll('X', `[^ ${TAB}${LF}${CR}()<>"]`), 'i');

/** The text, with links. In a <bdi>, what turns the direction of writing turns nothing else. */
function linked(text) {
  const parts = text.length < 20_000 ? text.split(LINK) : [text];
  return create('bdi', 'text', ...parts.map((part, i) => i % 2 ? link(part) : part));
}

function link(part) {
  const anchor = Object.assign(create('a', '', part), { href: part, rel: 'noopener noreferrer' });
  if (anchor.origin !== location.origin) anchor.target = '_blank';
  return anchor.host ? anchor : part;  // or it is no URL
}

// ---- What one does ----

function say() {
  const text = input.value.replaceAll(LINE_BREAK, LF);
  if (!text.trim()) return;
  if (!me || socket.readyState !== WebSocket.OPEN) {
    hint.textContent = 'Not sent: there was no connection. It stays here.';
    failures = 0; return wake();
  }
  ask(text);
  if (/^[/](?![/])/.test(text)) probe();  // since a command may have no answer
  else unconfirmed.push(input.value);
  clear();
  toEnd();
}

const unsent = () => [...unconfirmed, input.value].filter(Boolean).join(LINE_BREAK);
const clear = () => { lastLine = input.value; input.value = hint.textContent = ''; };
const toEnd = () => { log.scrollTop = log.scrollHeight; input.focus(); };
const type = text => document.execCommand('insertText', false, text);  // so it can be undone
const KEYS = { 'Enter': say, 'Shift Enter': () => type(LINE_BREAK), 'Escape': clear,
  'ArrowUp': () => { input.value ||= lastLine; } };

input.onkeydown = event => {
  const action = KEYS[(event.shiftKey ? 'Shift ' : '') + event.key];
  if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.isComposing || event.keyCode === 229) return;  // 229: an IME's
  event.preventDefault();
  action();
};
input.onpaste = event => {
  const text = event.clipboardData.getData('text').replaceAll(CR, '').trimEnd();
  if (!text.includes(LF)) return;
  event.preventDefault();
  type(text.replaceAll(LF, LINE_BREAK));
};
[byId('send').onclick, byId('new').onclick] = [say, toEnd];

// ---- The bytes on the wire, when the server was started with --trace ----

let source, ours;  // the # of our connection

function traced(data) {
  const [[time, connection, direction, title], ...rows] = data.split(LF).map(l => l.split(TAB));
  if (data.includes(mark)) ours = connection;
  const who = connection === ours ? connection + ', this page' : connection;
  const route = { in: who + ' → server', out: 'server → ' + who }[direction] ?? who;
  return create('li', /^P[IO]NG/.test(title) ? 'ping' : '', `${time}  ${route}  `,
    create('b', '', title), ...rows.map(row));
}

function row([bytes, name, meaning]) {  // without a name: a line of a handshake
  const words = create('p', '', create('span', '', name), create('span', '', meaning));
  const element = create('div', 'row', create('code', name ? 'field' : '', bytes), words);
  element.style.setProperty('--hue', hueOf((name || bytes).split(/[=:, ]/)[0]));
  return element;
}

/** A hidden tab does not listen: browsers have no more than six connections to a server. */
function openWire(isOpen) {
  keep('wire', isOpen);
  byId('toggle').setAttribute('aria-expanded', isOpen);
  wire.hidden = !document.body.classList.toggle('wired', isOpen);
  source?.close();
  source = isOpen && !(document.hidden && me) ? new EventSource('/trace') : null;
  if (source) source.onmessage = event => addTraced(traced(event.data));
}

byId('break').onsubmit = event => {
  event.preventDefault();
  fetch('/break', { method: 'POST', body: byId('bytes').value });
};
byId('example').onchange = event => { byId('bytes').value = event.target.value; };
byId('pings').onchange = event => wire.classList.toggle('quiet', !event.target.checked);
byId('toggle').onclick = () => openWire(wire.hidden);

input.value = kept('unsent ' + room);
byId('toggle').hidden = !mark;
if (mark) openWire(kept('wire') !== 'false');
if (mark) document.onvisibilitychange = () => openWire(!wire.hidden);
// The wire comes first, so that our own handshake is seen there.
if (source) await new Promise(done => { source.onopen = source.onerror = done; });
connect();
setInterval(wake, 50_000);  // ms: does the connection live, how many are here?
for (const type of ['online', 'pagehide', 'visibilitychange']) addEventListener(type, wake);
</script>
""";
}

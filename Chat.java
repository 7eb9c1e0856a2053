// Chat.java - a WebSocket chat in one file: JDK 21 or later and nothing else. Public domain.
//
//     java Chat.java                                    the page is at http://localhost:8080
//     java Chat.java --trace                            ... and every byte that travels, explained
//     java Chat.java --explain 818537fa213d7f9f4d5158   one frame, explained
//
// Chat listens and serves the page. WebSocket turns bytes into messages and back; it knows nothing
// of the chat: cut it out, with the imports, and you have a library for your own script. Rooms is
// the chat, Redis joins several servers. Options and PAGE come last. §5.4 is that section of RFC
// 6455, where it is obeyed.

import com.sun.net.httpserver.*;
import java.io.*;
import java.lang.invoke.*;
import java.net.*;
import java.nio.*;
import java.nio.charset.*;
import java.security.*;
import java.text.Normalizer;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.concurrent.locks.*;
import java.util.function.*;
import java.util.regex.*;
import java.util.stream.*;
import java.util.zip.*;
import javax.net.ssl.*;

import static java.nio.charset.StandardCharsets.*;

/// The chat server: one port for the page (HTTP), one for the WebSockets.
/// In a program of your own: `try (var chat = new Chat(Chat.Options.parse()).start()) { … }`
public final class Chat implements AutoCloseable {
    static final String VERSION = "1.0";
    static final int WAITING_ROOM = 500;             // connections beyond the limit, to be told so
    static final long PAUSE = 100_000_000;           // ns, when there is no file descriptor left
    static final long FAREWELL = 5_000_000_000L;     // ns for clients to answer our last Close
    static final int MAX_TRACED = 1000;              // items that may wait for one browser

    private final Options options;
    private final Rooms rooms;
    private HttpServer pageServer;
    private final ExecutorService pageThreads = Executors.newVirtualThreadPerTaskExecutor();
    private final ServerSocket listener = new ServerSocket();
    private final Set<WebSocket> connections = ConcurrentHashMap.newKeySet();
    private final Map<InetAddress, Integer> perAddress = new ConcurrentHashMap<>();
    private final Set<Queue<String>> watchers = ConcurrentHashMap.newKeySet();
    private WebSocket.Settings settings;

    public static void main(String[] arguments) {
        try {
            Options options = Options.parse(arguments);
            if (options.answer == null) {
                Chat chat = new Chat(options).start();
                Runtime.getRuntime().addShutdownHook(new Thread(chat::stop));
                options.answer = "Chat.java: open " + chat.address("http", chat.httpPort())
                        + " (WebSockets at " + chat.address("ws", chat.webSocketPort()) + ")";
            }
            System.out.println(options.answer);
        } catch (IllegalArgumentException | IOException wrong) {
            boolean usage = wrong instanceof IllegalArgumentException;
            System.err.println("Chat.java: " + wrong.getMessage());
            if (usage) System.err.println(Options.USAGE);
            System.exit(usage ? 2 : 1);
        }
    }

    /// @throws IOException the engine of --redis can't be had
    Chat(Options options) throws IOException {
        this.options = options;
        rooms = new Rooms(options.redis);
    }

    /// Binds both ports and serves until close().
    /// @throws IOException a port or the address can't be had; the message says what to do
    Chat start() throws IOException {
        // Seconds in which a browser must have sent its request; the JDK's default is: for ever.
        System.getProperties().putIfAbsent("sun.net.httpserver.maxReqTime", "10");
        try {
            var host = InetAddress.getByName(options.host);
            listener.bind(new InetSocketAddress(host, options.wsPort), 4096);
            var address = new InetSocketAddress(host, options.httpPort);
            pageServer = options.tls == null ? HttpServer.create(address, 0)
                    : HttpsServer.create(address, 0);
        } catch (IOException taken) {
            String port = listener.isBound() ? " --http-port " + options.httpPort
                    : " --ws-port " + options.wsPort;
            close();
            throw new IOException("can't listen at --host " + options.host + port + ": "
                    + taken.getMessage() + ". Choose another port, 0 for any");
        }
        settings = new WebSocket.Settings(options.maxMessage, options.maxQueue, options.deflate,
                options.tls, "The page is at " + address("http", httpPort()),
                options.trace ? this::trace : null, Chat::log);
        if (pageServer instanceof HttpsServer https)
            https.setHttpsConfigurator(new HttpsConfigurator(options.tls));
        pageServer.setExecutor(pageThreads);
        pageServer.createContext("/", this::page);
        pageServer.start();
        Thread.ofPlatform().name("listen").start(this::listen);
        if (!listener.getInetAddress().isLoopbackAddress() && options.tls == null)
            log("others on the network can reach this, and read along: see README, Security");
        return this;
    }

    int httpPort() { return pageServer.getAddress().getPort(); }
    int webSocketPort() { return listener.getLocalPort(); }
    private String secure(String scheme) { return scheme + (options.tls == null ? "://" : "s://"); }
    private String address(String scheme, int port) {
        return secure(scheme) + options.host + ":" + port + "/";
    }

    /// Each connection gets a virtual thread: it may wait as long as it likes, that costs nothing.
    private void listen() {
        while (!listener.isClosed()) {
            try {
                Socket socket = listener.accept();
                if (connections.size() >= options.maxConnections + WAITING_ROOM) socket.close();
                else Thread.startVirtualThread(() -> serve(socket));
            } catch (IOException | OutOfMemoryError failure) {
                if (listener.isClosed()) return;
                LockSupport.parkNanos(PAUSE);
                log("can't accept a connection: " + failure);
            }
        }
    }

    private void serve(Socket socket) {
        var webSocket = new WebSocket(socket, settings);
        InetAddress address = socket.getInetAddress();
        int neighbours = perAddress.merge(address, 1, Integer::sum);
        boolean crowded = neighbours > options.maxPerAddress && !address.isLoopbackAddress();
        connections.add(webSocket);
        try {
            webSocket.serve(handshake -> welcome(handshake, crowded), this::converse);
        } finally {
            connections.remove(webSocket);
            perAddress.compute(address, (same, count) -> count == 1 ? null : count - 1);
        }
    }

    /// The life of a connection: enter, hear until there is nothing more to hear, leave.
    private void converse(WebSocket webSocket) throws IOException {
        boolean echo = webSocket.path().equals("/echo");
        Rooms.Member member = echo ? null : rooms.enter(webSocket, Rooms.named(webSocket.path()));
        try {
            while (webSocket.receive() instanceof WebSocket.Message message) {
                WebSocket.rule(echo || message.isText(), 1003, "this chat is for text (§5.6)");
                if (echo) webSocket.send(message);
                else rooms.hear(member, message.text());
            }
        } finally {
            if (!echo) rooms.leave(member);
        }
    }

    /// Decides about a handshake that is right in itself, and names the subprotocols of its path.
    private List<String> welcome(WebSocket.Handshake request, boolean crowded) throws IOException {
        String host = request.host(), path = request.path(), room = Rooms.named(path);
        String origin = request.header("Origin").toLowerCase(Locale.ROOT);
        boolean own = !request.headers().containsKey("Origin")            // it is not a browser
                || origin.equals(origin(host)) || options.origins.contains(origin);
        boolean full = crowded || connections.size() > options.maxConnections;
        WebSocket.rule(!full && !listener.isClosed(), 503, "too many connections: try again later");
        WebSocket.rule(knows(host), 403, "this server has other names; --host or --origin adds it");
        WebSocket.rule(own || options.origins.contains("*"), 403,
                "pages of another origin may not connect (§10.2); --origin ORIGIN allows it");
        WebSocket.rule(room != null || path.equals("/echo"), 404, "there is /, /echo, /chat and "
                + "/chat/NAME (64 letters, digits, - or _) (§4.2.2)");
        WebSocket.rule(room == null || rooms.canHold(room), 503, "too many rooms, try the lobby");
        return room == null ? List.of() : List.of(Rooms.PRESENCE);
    }

    /// The page's origin: scheme and port as they are here, the host as the client names it.
    private String origin(String host) {
        boolean usual = httpPort() == (options.tls == null ? 80 : 443);
        return secure("http") + host + (usual ? "" : ":" + httpPort());
    }

    /// On the loopback address only its own names will do: any web page can let a name of its own
    /// point to 127.0.0.1, and would be "the same origin" as this server (DNS rebinding).
    private boolean knows(String host) {
        return host != null && (!listener.getInetAddress().isLoopbackAddress()
                || List.of("localhost", "127.0.0.1", "[::1]", options.host).contains(host)
                || options.origins.stream().anyMatch(origin -> origin.equals("*")
                || origin.matches("https?://\\Q" + host + "\\E(:\\d+)?")));
    }

    private void page(HttpExchange exchange) throws IOException {
        try (exchange) {
            String path = "" + exchange.getRequestURI().getRawPath(), room = Rooms.named(path);
            String named = String.join(",",
                    exchange.getRequestHeaders().getOrDefault("Host", List.of()));
            String host = WebSocket.Handshake.hostName(named), method = exchange.getRequestMethod();
            // Who comes by another port comes through a proxy, which makes both ports one.
            boolean direct = origin(host).endsWith("//" + named);
            // The wire shows what everybody says, so it is only for who sits at this machine.
            boolean wire = options.trace && path.equals("/trace") && direct
                    && exchange.getRemoteAddress().getAddress().isLoopbackAddress();
            if (!knows(host)) answer(exchange, 403, "This server has another name.", "");
            else if (!wire && room == null)
                answer(exchange, 404, "Nothing is here. " + settings.hint(), "");
            else if (!method.matches("GET|HEAD"))
                answer(exchange, 405, "Only GET and HEAD work here.", "");
            else if (wire) stream(exchange);
            else answer(exchange, 200, PAGE, direct ? host : null);
        }
    }

    /// @param host by which the page reaches the WebSockets; null: as it was reached itself
    private void answer(HttpExchange exchange, int status, String body, String host)
            throws IOException {
        String port = host == null ? "" : "" + webSocketPort(), nonce = "" + UUID.randomUUID();
        byte[] bytes = body.replace("{{nonce}}", nonce).replace("{{port}}", port)
                .replace("{{trace}}", "" + options.trace).getBytes(UTF_8);
        boolean head = exchange.getRequestMethod().equals("HEAD");
        Map.of("Content-Type", (status == 200 ? "text/html" : "text/plain") + "; charset=utf-8",
                "Content-Length", "" + bytes.length, "X-Content-Type-Options", "nosniff",
                "Referrer-Policy", "no-referrer", "Cache-Control", "no-store", "Allow", "GET, HEAD",
                "Content-Security-Policy", ("default-src 'none'; script-src 'nonce-%1$s'; style-src"
                + " 'nonce-%1$s'; connect-src 'self' %2$s; img-src data:; base-uri 'none'; "
                + "form-action 'none'; frame-ancestors 'none'").formatted(nonce,
                host == null ? "" : secure("ws") + host + ":" + port))
                .forEach(exchange.getResponseHeaders()::set);
        exchange.sendResponseHeaders(status, head ? -1 : bytes.length);
        if (!head) exchange.getResponseBody().write(bytes);
    }

    /// Tells a browser what is traced, as server-sent events, until one of them goes.
    private void stream(HttpExchange exchange) throws IOException {
        var queue = new ArrayBlockingQueue<String>(MAX_TRACED);
        exchange.getResponseHeaders().set("Content-Type", "text/event-stream; charset=utf-8");
        watchers.add(queue);
        exchange.sendResponseHeaders(200, 0);
        try (var out = exchange.getResponseBody()) {
            for (String item = null; ; item = queue.poll(15, TimeUnit.SECONDS)) {
                String event = item == null ? ":" : "data: " + item.replace("\n", "\ndata: ");
                out.write((event + "\n\n").getBytes(UTF_8));
                out.flush();
            }
        } catch (InterruptedException closing) {
            // by close()
        } finally {
            watchers.remove(queue);
        }
    }

    private void trace(String item) {
        System.err.println(WebSocket.coloured(item));
        for (var queue : watchers) queue.offer(item);
    }

    /// One line on the terminal; nothing that a client has sent can break it or colour it.
    static void log(String line) {
        System.err.println(WebSocket.now() + " " + WebSocket.printable(line));
    }

    /// Stops at a signal. The JVM runs each in a thread named after it, and a second one would only
    /// wait for the first: it shall end the program at once.
    private void stop() {
        Thread.ofPlatform().daemon().start(() -> {
            while (Thread.getAllStackTraces().keySet().stream()
                    .filter(thread -> thread.getName().matches("SIG.* handler")).count() < 2)
                LockSupport.parkNanos(PAUSE);
            Runtime.getRuntime().halt(130);
        });
        close();
    }

    /// Stops: takes no more connections, sends everyone 1001 (§7.4.1) and gives them some seconds.
    /// When it returns, all threads, sockets and ports are free.
    @Override
    public void close() {
        try { listener.close(); } catch (IOException closed) { }
        if (pageServer != null) pageServer.stop(0);
        pageThreads.shutdownNow();
        for (WebSocket webSocket : connections) webSocket.close(1001, "the server stops (§7.4.1)");
        awaitLast();
        for (WebSocket webSocket : connections) webSocket.cutOff(null);
        awaitLast();
        rooms.close();
    }

    private void awaitLast() {
        long start = System.nanoTime();
        while (!connections.isEmpty() && System.nanoTime() - start < FAREWELL)
            LockSupport.parkNanos(1_000_000);
    }

    /// One connection, from the server's side: RFC 6455, compression by RFC 7692.
    ///
    ///     WebSocket.serve(socket, webSocket -> {                                    // opened
    ///         while (webSocket.receive() instanceof WebSocket.Message message)      // a message
    ///             webSocket.send(message);
    ///         System.out.println(webSocket.closeCode());                            // closed
    ///     });
    ///
    /// The thread that calls serve() does the reading: give it one of its own. Any thread may send,
    /// ping and close, and none waits for the peer. A peer that breaks a rule is told which, and
    /// receive() throws the Refusal (failed). What the handler throws ends this connection only.
    static final class WebSocket {
        static final int HANDSHAKE_TIME = 10;       // seconds in all, however the bytes trickle in
        static final int MAX_HEAD = 8 * 1024;       // bytes of a request: what common servers take
        static final int MAX_HEADERS = 100;         // of a request, for the same reason
        static final int SILENCE = 25;              // seconds to a ping; proxies cut at 60
        static final int CLOSE_TIME = 5;            // seconds between our Close and the end of TCP
        static final int MAX_FRAGMENTS = 100_000;   // of a message, if there are empty ones
        static final int INPUT = 512;               // bytes of input buffer: most peers are idle
        static final int FIRST = 4096;              // bytes of a message to expect before they come
        static final int BATCH = 64 * 1024;         // bytes that one system call writes
        static final int PONG_BACKLOG = 16 * 1024;  // unwritten bytes at which pings have to wait
        static final int DEFLATE_FROM = 1024;       // bytes from which compressing pays

        /// What holds for all connections of a server.
        /// @param maxMessage bytes of a message, inflated or not
        /// @param maxQueue   bytes that may wait to be written
        /// @param hint       a sentence for those who are refused
        /// @param trace      hears of all that travels, or null; log: of each failure
        record Settings(int maxMessage, int maxQueue, boolean deflate, SSLContext tls, String hint,
                        Consumer<String> trace, Consumer<String> log) {
            static final Settings DEFAULT =
                    new Settings(1 << 20, 8 << 20, true, null, "", null, line -> { });
        }

        /// A peer broke a rule, or is not wanted. The code is an HTTP status until the connection
        /// is open, then a close code (§7.4). The message goes to the peer, the log and the trace.
        static final class Refusal extends IOException {
            final int code;

            Refusal(int code, String message) { super(message); this.code = code; }
        }

        static void rule(boolean kept, int code, String message) throws Refusal {
            if (!kept) throw new Refusal(code, message);
        }

        // ---- The opening handshake (§4.2) -----------------------------------------------------

        /// The request of a client. The values of a header that comes again follow after a comma.
        record Handshake(String method, String target, Map<String, String> headers) {
            static final String TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
            static final Pattern REQUEST = Pattern.compile(
                    "(" + TOKEN + ") (?:https?://[^/?#\\s]+)?(/[!-~&&[^#]]*) HTTP/1\\.[1-9]");
            static final Pattern KEY = Pattern.compile("[A-Za-z0-9+/]{22}==");
            static final Pattern HEADER = Pattern.compile("(" + TOKEN + "):([\t -~\\x80-\\xff]*)");
            static final Pattern HOST = Pattern.compile(
                    "(\\[[0-9A-Fa-f:.]{2,45}]|[0-9A-Za-z._-]{1,253})(?::\\d{1,5})?");
            static final Map<Integer, String> STATUS = Map.of(400, "Bad Request", 403, "Forbidden",
                    404, "Not Found", 405, "Method Not Allowed\r\nAllow: GET", 426,
                    "Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",   // §4.4
                    431, "Request Header Fields Too Large", 500, "Internal Server Error",
                    503, "Service Unavailable");

            /// @param text gets what has come, be it right or not
            static Handshake read(InputStream in, StringBuilder text) throws IOException {
                for (int last = 0, next; last != 0x0d0a0d0a; last = last << 8 | next) {
                    rule(text.length() < MAX_HEAD, 431, "more than " + MAX_HEAD + " bytes");
                    if ((next = in.read()) < 0) throw new EOFException();
                    rule((next == '\n') == ((byte) last == '\r'), 400, "lines end with CR LF");
                    text.append((char) next);
                }
                List<String> lines = text.toString().lines().toList();
                Matcher request = REQUEST.matcher(lines.get(0));
                rule(request.matches(), 400, "this is not an HTTP/1.1 request (§4.2.1)");
                rule(lines.size() < MAX_HEADERS + 3, 431, "more than " + MAX_HEADERS + " headers");
                var headers = new TreeMap<String, String>(String.CASE_INSENSITIVE_ORDER);
                for (String line : lines.subList(1, lines.size() - 1)) {
                    Matcher header = HEADER.matcher(line);            // no blank before the colon
                    rule(header.matches(), 400, "a header is not NAME: VALUE (§4.2.1)");
                    headers.merge(header.group(1), header.group(2).strip(), (a, b) -> a + "," + b);
                }
                return new Handshake(request.group(1), request.group(2), headers);
            }

            /// The conditions of §4.2.1, in the order that gives the most helpful answer.
            void check() throws Refusal {
                String version = header("Sec-WebSocket-Version");
                boolean body = headers.containsKey("Content-Length");
                rule(method.equals("GET"), 405, "a WebSocket begins with GET (§4.2.1)");
                rule(host() != null, 400, "one valid Host is needed (§4.2.1)");
                rule(list("Upgrade").stream().anyMatch("websocket"::equalsIgnoreCase), 426,
                        "this port is for WebSockets only (§4.2.1)");
                rule(!body && !headers.containsKey("Transfer-Encoding"), 400,
                        "a GET has no body (§4.2.1)");
                rule(list("Connection").stream().anyMatch("upgrade"::equalsIgnoreCase), 400,
                        "Connection: Upgrade is missing (§4.2.1)");
                rule(KEY.matcher(header("Sec-WebSocket-Key")).matches(), 400,
                        "one key of 16 bytes is needed (§4.2.1)");
                rule(version.matches("[^,]+"), 400, "one version is needed (§4.2.1)");
                rule(version.equals("13"), 426, "the only version is 13 (§4.4)");
            }

            String header(String name) { return headers.getOrDefault(name, ""); }

            /// The elements of a list; there may be empty ones, which mean nothing.
            List<String> list(String name) {
                return Stream.of(header(name).split(",")).map(String::strip)
                        .filter(element -> !element.isEmpty()).toList();
            }

            /// The path, still percent-encoded, without the query.
            String path() { return target.split("\\?", 2)[0]; }

            /// The name by which the client calls this server, without the port; null for none.
            String host() { return hostName(header("Host")); }

            static String hostName(String hostAndPort) {
                Matcher host = HOST.matcher(hostAndPort);
                return host.matches() ? host.group(1).toLowerCase(Locale.ROOT) : null;
            }

            /// §4.2.2: the first subprotocol offered that is known here, or null.
            String choose(List<String> known) throws Refusal {
                List<String> offers = list("Sec-WebSocket-Protocol");
                for (String offer : offers) rule(offer.matches(TOKEN), 400, "no token (§11.3.4)");
                return offers.stream().filter(known::contains).findFirst().orElse(null);
            }

            /// §4.2.2: shows that the request was understood; it is no secret (§10.8).
            static String acceptKey(String key) throws NoSuchAlgorithmException {
                var sha = MessageDigest.getInstance("SHA-1");
                byte[] text = (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes(US_ASCII);
                return Base64.getEncoder().encodeToString(sha.digest(text));
            }

            /// §4.2.2: the answer after which the connection is a WebSocket.
            String accept(String protocol, String extensions) throws NoSuchAlgorithmException {
                return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        + "Connection: Upgrade\r\nSec-WebSocket-Accept: "
                        + acceptKey(header("Sec-WebSocket-Key"))
                        + (protocol == null ? "" : "\r\nSec-WebSocket-Protocol: " + protocol)
                        + (extensions == null ? "" : "\r\nSec-WebSocket-Extensions: " + extensions)
                        + "\r\n\r\n";
            }

            /// The answer that leaves it with HTTP. It repeats nothing that the client has sent.
            static String refuse(int status, String body) {
                return "HTTP/1.1 " + status + " " + STATUS.get(status) + "\r\nConnection: close"
                        + (status == 426 ? ", Upgrade" : "")
                        + "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
                        + body.getBytes(UTF_8).length + "\r\n\r\n" + body;
            }
        }

        // ---- Frames (§5.2) --------------------------------------------------------------------

        static final int CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;
        static final Map<Integer, String> OPCODES = Map.of(CONTINUATION, "CONTINUATION",
                TEXT, "TEXT", BINARY, "BINARY", CLOSE, "CLOSE", PING, "PING", PONG, "PONG");

        /// What stands before the payload; rsv is 0, or 4 for RSV1.
        ///
        ///      0 1 2 3 4 5 6 7   0 1 2 3 4 5 6 7
        ///     +-+-+-+-+-------+ +-+-------------+ +----------------+ +----------------+
        ///     |F|R|R|R|opcode | |M| length      | | longer length: | | masking key:   |
        ///     |I|S|S|S|       | |A|  126: 2 more| | 2 or 8 bytes,  | | 4 bytes, if    |
        ///     |N|V|V|V|       | |S|  127: 8 more| | big-endian     | | MASK is 1      |
        ///     +-+1+2+3+-------+ +K+-------------+ +----------------+ +----------------+
        record Header(boolean fin, int rsv, int opcode, boolean masked, int key, long length) {
            static final int FIN = 0x80, MASK = 0x80, RSV1 = 4, TWO_MORE = 126, EIGHT_MORE = 127;

            /// Reads a header and checks, as early as possible, all that it alone can break.
            /// @param deflate whether RSV1 has a meaning
            /// @param client  whether it comes from a client, which must mask
            static Header read(DataInputStream in, boolean deflate, boolean client)
                    throws IOException {
                int first = in.readUnsignedByte(), second = in.readUnsignedByte();
                int opcode = first & 0x0f, rsv = first >> 4 & 7, form = second & 0x7f;
                boolean fin = (first & FIN) != 0, masked = (second & MASK) != 0;
                rule(OPCODES.containsKey(opcode), 1002, "this opcode means nothing (§5.2)");
                rule(rsv == 0 || rsv == RSV1 && deflate, 1002, "a reserved bit is set (§5.2)");
                rule(rsv == 0 || opcode == TEXT || opcode == BINARY, 1002,
                        "RSV1 is for a message's first frame (RFC 7692 §6.1)");
                rule(masked || !client, 1002, "a client must mask its frames (§5.1)");
                rule(opcode < CLOSE || fin && form < TWO_MORE, 1002,
                        "a control frame is whole and has at most 125 bytes (§5.5)");
                long length = form == TWO_MORE ? in.readUnsignedShort()
                        : form == EIGHT_MORE ? in.readLong() : form;
                rule(length >= 0, 1002, "the highest bit of a length is 0 (§5.2)");
                rule(form == formFor(length), 1002, "a length has its shortest form (§5.2)");
                return new Header(fin, rsv, opcode, masked, masked ? in.readInt() : 0, length);
            }

            private static int formFor(long length) {
                return length < TWO_MORE ? (int) length : length < 1 << 16 ? TWO_MORE : EIGHT_MORE;
            }

            /// A server's frame on the wire: whole, and not masked (§5.1).
            static byte[] encode(int opcode, int rsv, byte[] payload) {
                return new Header(true, rsv, opcode, false, 0, payload.length).encode(payload);
            }

            byte[] encode(byte[] payload) {
                int form = formFor(length), size = form < TWO_MORE ? 2 : form == TWO_MORE ? 4 : 10;
                var wire = ByteBuffer.allocate(size + (masked ? 4 : 0) + payload.length);
                wire.put((byte) ((fin ? FIN : 0) | rsv << 4 | opcode));
                wire.put((byte) (form | (masked ? MASK : 0)));
                if (form == TWO_MORE) wire.putShort((short) length);
                if (form == EIGHT_MORE) wire.putLong(length);
                if (masked) wire.putInt(key);
                int start = wire.position();
                mask(key, 0, wire.put(payload).array(), start, payload.length);
                return wire.array();
            }

            private static final VarHandle LONG =
                    MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);

            /// §5.3: byte i of a payload XOR byte i mod 4 of the key. Doing it twice undoes it.
            /// @param done bytes of this payload that came before
            /// @return whether the result is ASCII, and so UTF-8 without a further look
            static boolean mask(int key, int done, byte[] bytes, int from, int count) {
                int turned = Integer.rotateLeft(key, 8 * done), i = from, end = from + count;
                long twice = (long) turned << 32 | turned & 0xffffffffL, all = 0;
                for (; i + 8 <= end; i += 8) {
                    long eight = (long) LONG.get(bytes, i) ^ twice;
                    LONG.set(bytes, i, eight);
                    all |= eight;
                }
                for (; i < end; i++) all |= bytes[i] ^= (byte) (turned >>> 24 - 8 * (i - from & 3));
                return (all & 0x8080808080808080L) == 0;
            }
        }

        /// §7.4: whether a Close frame may carry this code.
        static boolean isLegal(int code) {
            return code >= 1000 && code < 1004 || code > 1006 && code < 1015
                    || code > 2999 && code < 5000;
        }

        /// A Close's payload; the reason is cut between two characters to fit in 125 bytes (§5.5).
        private static byte[] closing(int code, String reason) {
            var payload = ByteBuffer.allocate(125).putShort((short) code);
            UTF_8.newEncoder().encode(CharBuffer.wrap(reason), payload, true);
            return Arrays.copyOf(payload.array(), payload.position());
        }

        // ---- Messages (§5.6) ------------------------------------------------------------------

        /// What programs exchange. It is encoded and compressed once, however many it is sent to.
        /// The payload of a text is UTF-8, in a received one for sure.
        record Message(boolean isText, byte[] payload, byte[][] frames) {
            Message(boolean isText, byte[] payload) { this(isText, payload, new byte[2][]); }
            static Message text(String text) { return new Message(true, text.getBytes(UTF_8)); }
            String text() { return new String(payload, UTF_8); }

            private byte[] frame(boolean deflate) {
                int opcode = isText ? TEXT : BINARY;
                int which = deflate && payload.length >= DEFLATE_FROM ? 1 : 0;
                synchronized (frames) {
                    if (frames[0] == null) frames[0] = Header.encode(opcode, 0, payload);
                    if (frames[which] == null)
                        frames[1] = Header.encode(opcode, Header.RSV1, Deflate.deflate(payload));
                    return frames[which].length < frames[0].length ? frames[which] : frames[0];
                }
            }
        }

        /// §8.1: checks UTF-8 from `from` on.
        /// @param whole whether that is all; otherwise the last character may still be incomplete
        /// @return where the first character begins that is incomplete
        static int checkText(byte[] bytes, int from, int to, boolean whole) throws Refusal {
            var rest = ByteBuffer.wrap(bytes, from, to - from);
            var scratch = CharBuffer.allocate(Math.min(to - from + 1, 4096));
            CharsetDecoder decoder = UTF_8.newDecoder();
            CoderResult result;
            do result = decoder.decode(rest, scratch.clear(), whole); while (result.isOverflow());
            // ed a0 to ed bf become a surrogate; the decoder notices only at the next byte
            boolean surrogate = rest.remaining() == 2 && bytes[to - 2] == (byte) 0xed
                    && bytes[to - 1] >= (byte) 0xa0;
            rule(!result.isError() && !surrogate, 1007, "text must be UTF-8 (§8.1)");
            return rest.position();
        }

        /// permessage-deflate (RFC 7692). Nothing is remembered from one message to the next, so an
        /// idle connection needs no window, and one compressed message serves everybody.
        private static final class Deflate {
            static final Pattern PART = Pattern.compile("\\s*T(\\s*=\\s*(T|\"[!-~&&[^\"]]+\"))?\\s*"
                    .replace("T", Handshake.TOKEN));
            /// §7.1.2: java.util.zip can't promise a window of less than 15 bits. The client's may
            /// have any size, reading copes with all of them.
            static final Pattern LEGAL = Pattern.compile("(client|server)_no_context_takeover"
                    + "|server_max_window_bits=15|client_max_window_bits(=([89]|1[0-5]))?");
            static final byte[] TAIL = {0, 0, (byte) 0xff, (byte) 0xff};

            /// §7.1: the answer to the first offer that can be kept, or null for no compression.
            static String agree(List<String> offers) throws Refusal {
                String answer = null;
                for (String offer : offers) {
                    var given = List.of(offer.replaceAll("[\\s\"\\\\]", "").split(";"));
                    rule(Stream.of(offer.split(";", -1)).allMatch(PART.asMatchPredicate())
                            && !given.get(0).contains("="), 400, "no list of extensions (§9.1)");
                    long names = given.stream().map(each -> each.split("=")[0]).distinct().count();
                    if (answer == null && given.get(0).equals("permessage-deflate")
                            && given.stream().skip(1).allMatch(LEGAL.asMatchPredicate())
                            && names == given.size())
                        answer = "permessage-deflate; server_no_context_takeover; "
                                + "client_no_context_takeover"
                                + (given.contains("server_max_window_bits=15")
                                ? "; server_max_window_bits=15" : "");
                }
                return answer;
            }

            /// §7.2.1: deflate, flush, drop the four bytes with which a flush ends.
            static byte[] deflate(byte[] message) {
                var deflater = new Deflater(Deflater.BEST_SPEED, true);
                byte[] out = new byte[message.length + message.length / 256 + 64];      // is enough
                deflater.setInput(message);
                int size = deflater.deflate(out, 0, out.length, Deflater.SYNC_FLUSH);
                deflater.end();
                return Arrays.copyOf(out, size - TAIL.length);
            }

            /// §7.2.2: put the four bytes back and inflate, but not one byte beyond `limit`.
            static byte[] inflate(byte[] message, int limit) throws Refusal {
                rule(message.length > 0, 1002, "compressed data is never empty (RFC 7692 §7.2.1)");
                byte[] input = Arrays.copyOf(message, message.length + 4), chunk = new byte[8192];
                System.arraycopy(TAIL, 0, input, message.length, TAIL.length);
                var inflater = new Inflater(true);
                var out = new ByteArrayOutputStream(2 * input.length);
                try {
                    for (int rest = input.length; rest > 0; rest = inflater.getRemaining()) {
                        inflater.reset();               // after a block with BFINAL: §7.2.3.4
                        inflater.setInput(input, input.length - rest, rest);
                        for (int got; (got = inflater.inflate(chunk)) > 0; out.write(chunk, 0, got))
                            rule(out.size() + got <= limit, 1009, "inflated, it is too long");
                    }
                    return out.toByteArray();
                } catch (DataFormatException broken) {
                    throw new Refusal(1007, "this is not DEFLATE (RFC 7692 §7.2.2)");
                } finally {
                    inflater.end();
                }
            }
        }

        // ---- Bytes out ------------------------------------------------------------------------

        /// Frames on their way to one socket. Adding never waits: a virtual thread writes, which
        /// lives only while there is something to write, and writes all that has piled up at once.
        /// A peer for whom too much piles up is cut off: to wait would hold up others, to leave a
        /// message out would be a lie.
        private final class Outbox implements Runnable {
            private List<byte[]> waiting;
            private volatile boolean writing, ended;
            private volatile long unwritten, progress;  // bytes; since when it writes, in ns
            private long batch;                         // bytes that are being written
            private volatile Thread sleeper;

            /// @param last whether nothing may follow, because it is a Close (§5.5.1)
            /// @param here whether the connection's own thread may write it and wait for the peer
            /// @return whether it will be sent
            boolean add(byte[] frame, boolean last, boolean here) {
                boolean full, idle;
                synchronized (this) {
                    if (ended) return false;
                    idle = !writing;
                    if (idle) progress = System.nanoTime();
                    full = unwritten > settings.maxQueue;
                    ended = last || full;
                    writing = true;
                    unwritten += frame.length;
                    if (waiting == null) waiting = new ArrayList<>(4);
                    waiting.add(frame);
                }
                if (full) cutOff("reads too slowly: " + unwritten + " bytes wait");
                // The connection's own thread writes for itself, unless more input is waiting: what
                // answers all of that makes better use of one system call.
                else if (idle && here && Thread.currentThread() == owner && !inputWaits()) run();
                else if (idle) Thread.startVirtualThread(this);
                return !full;
            }

            /// Writes until nothing is left.
            @Override
            public void run() {
                try {
                    for (List<byte[]> frames; (frames = take()) != null; ) {
                        var stream = frames.size() == 1 ? out
                                : new BufferedOutputStream(out, (int) Math.min(batch, BATCH));
                        for (byte[] frame : frames) {
                            if (settings.trace != null) traceSent(frame);
                            stream.write(frame);
                        }
                        stream.flush();
                    }
                } catch (IOException lost) {
                    cutOff(null);
                }
            }

            /// @return what was added since it was last asked, for that is written now; else null
            private synchronized List<byte[]> take() {
                unwritten -= batch;
                batch = unwritten;
                progress = System.nanoTime();
                LockSupport.unpark(sleeper);
                List<byte[]> frames = waiting;
                waiting = null;
                writing = frames != null;
                return frames;
            }

            synchronized void giveUp() {
                ended = true;
                unwritten = batch = 0;
                waiting = null;
                LockSupport.unpark(sleeper);
            }

            /// Waits until at most `most` bytes are unwritten: a talker is slowed by what he hears.
            void await(long most) {
                sleeper = Thread.currentThread();
                while (unwritten > most) LockSupport.park(this);
                sleeper = null;
            }
        }

        // ---- What travels, explained ----------------------------------------------------------

        /// Whether somebody looks at it. (JDK 22 to 24 always claim to have a console.)
        static final boolean COLOUR = System.console() != null && System.getenv("NO_COLOR") == null
                && !new File("/dev/stderr").isFile()
                && !List.of(22, 23, 24).contains(Runtime.version().feature());

        static String coloured(String traced) {
            return !COLOUR ? traced : traced.replaceAll("(?m)^\\S.*$", "\033[1m$0\033[0m")
                    .replaceAll("(?m)^    [0-9a-f]{2} .{20}", "\033[36m$0\033[0m");
        }

        /// A title, then a row for each field of a frame: its bytes, its name and what it means.
        /// @param fragment which one of its message it is
        /// @param deflated what has come of its message, if that is compressed, else null
        static String explain(Header header, byte[] payload, int fragment, byte[] deflated) {
            byte[] wire = header.encode(payload);
            int start = wire.length - payload.length, key = start - (header.masked ? 4 : 0);
            String name = OPCODES.get(header.opcode), s = header.length == 1 ? "" : "s";
            String bits = Integer.toBinaryString(wire[0] & 0xff | 0x100);   // 1, then the byte
            String role = switch (header.opcode) {
                case CLOSE -> " (§5.5.1)";
                case PING -> ", wants a PONG (§5.5.2)";
                case PONG -> " (§5.5.3)";
                default -> !header.fin ? ", fragment " + fragment + ", more to come (§5.4)"
                        : fragment == 1 ? ", a whole message (§5.6)"
                        : ", the last of " + fragment + " fragments (§5.4)";
            };
            String text = name + " frame, " + header.length + " byte" + s
                    + row(wire, 0, 1, "FIN=" + bits.charAt(1) + " RSV=" + bits.substring(2, 5)
                    + " opcode=" + header.opcode, name + role)
                    + row(wire, 1, 2, "MASK=" + (start - key) / 4 + " length=" + (wire[1] & 127),
                    key == 2 ? "the length itself (§5.2)" : "so " + (key - 2)
                    + " more bytes (§5.2)");
            if (key > 2) text += row(wire, 2, key, "length=" + header.length, "(§5.2)");
            if (header.masked) text += row(wire, key, start, "masking key", "always new (§5.3)")
                    + row(wire, start, wire.length, "payload, masked", "");
            text += row(payload, 0, payload.length, "payload", deflated != null
                    ? "compressed (RFC 7692 §7.2)" : meaning(header.opcode, payload));
            return text + (deflated != null && header.fin ? inflated(deflated) : "");
        }

        /// Up to eight bytes, of more the first four and the last three; their name and meaning.
        private static String row(byte[] bytes, int from, int to, String name, String meaning) {
            HexFormat hex = HexFormat.ofDelimiter(" ");
            String shown = from == to ? "-" : to - from <= 8 ? hex.formatHex(bytes, from, to)
                    : hex.formatHex(bytes, from, from + 4) + " … "
                    + hex.formatHex(bytes, to - 3, to);
            return "\n    %-23s  %-25s %s".formatted(shown, name, meaning).stripTrailing();
        }

        private static String meaning(int opcode, byte[] payload) {
            int skip = opcode == CLOSE && payload.length > 1 ? 2 : 0;
            String text = new String(payload, skip, payload.length - skip, UTF_8);
            return (skip == 0 ? "" : (int) ByteBuffer.wrap(payload).getChar() + " (§7.4) ")
                    + (text.contains("\ufffd") ? "" : '"' + elide(printable(text), 36) + '"');
        }

        private static String inflated(byte[] deflated) {
            try {
                byte[] whole = Deflate.inflate(deflated, 1 << 24);
                return row(whole, 0, whole.length, "inflated to " + whole.length, "saves "
                        + (whole.length - deflated.length) + ": " + meaning(TEXT, whole));
            } catch (Refusal broken) {
                return "\n    " + broken.getMessage();
            }
        }

        /// Explains frames of either direction, until one of them breaks a rule.
        static String explain(byte[] frames) {
            var text = new StringJoiner("\n");
            var webSocket = new WebSocket(null, new Settings(1 << 30, 0, true, null, "", traced -> {
                if (traced.endsWith(" (§7.1.5)")) return;                   // all is explained
                text.add(traced.replaceFirst("\\S+ +\\S+ +(in +)?", ""));   // time, connection
            }, line -> { }));
            webSocket.in = new DataInputStream(new ByteArrayInputStream(frames));
            webSocket.deflate = webSocket.upgraded = webSocket.eitherSide = true;
            webSocket.outbox.ended = true;              // so it reads to the end, and says nothing
            try { webSocket.receive(); } catch (Refusal explained) { }
            return text.toString();
        }

        static String elide(String text, int most) {
            return text.codePointCount(0, text.length()) <= most ? text
                    : text.substring(0, text.offsetByCodePoints(0, most - 1)) + "…";
        }

        /// For a terminal: what could break a line or steer it, like ESC, becomes a number.
        static String printable(String text) {
            return Pattern.compile("[\\p{C}\\p{Zl}\\p{Zp}]").matcher(text).replaceAll(
                    unsafe -> "\\\\u{%x}".formatted(unsafe.group().codePointAt(0)));
        }

        static String now() { return "%tT.%<tL".formatted(System.currentTimeMillis()); }

        // ---- The connection -------------------------------------------------------------------

        /// As a browser's readyState.
        enum State { CONNECTING, OPEN, CLOSING, CLOSED }

        /// Decides about a handshake: refuses with an HTTP status, or names subprotocols it knows.
        interface Welcome { List<String> of(Handshake handshake) throws IOException; }

        /// What is done with an open connection; afterwards it is closed.
        interface Handler { void handle(WebSocket webSocket) throws IOException; }

        private static final AtomicLong COUNT = new AtomicLong();
        private static final Set<WebSocket> LIVE = ConcurrentHashMap.newKeySet();
        static { Thread.startVirtualThread(WebSocket::watch); }
        private final long number = COUNT.incrementAndGet();
        private final Socket socket;
        private final Settings settings;
        private final Outbox outbox = new Outbox();
        private Socket stream;
        private DataInputStream in;
        private OutputStream out;
        private Thread owner;
        private String path, protocol, closeReason = "";
        private int closeCode = 1006;
        private boolean deflate, eitherSide, pinged;
        private volatile boolean upgraded, over;
        private volatile long heard = System.nanoTime(), deadline = heard + seconds(HANDSHAKE_TIME);
        // Of a message whose end has not come: its opcode (-1: there is none), whether it is
        // compressed, its bytes, how many of these are checked, the number of fragments.
        private int opcode = -1, gathered, checked, fragments;
        private boolean compressed;
        private byte[] message = {};

        WebSocket(Socket socket, Settings settings) {
            this.socket = stream = socket;
            this.settings = settings;
        }

        /// Serves one connection from its first byte to its last. Pages of other hosts may not
        /// connect: they would act in the name of whoever looks at them (§10.2).
        static void serve(Socket socket, Handler handler) {
            new WebSocket(socket, Settings.DEFAULT).serve(handshake -> {
                String own = "https?://\\Q" + handshake.host() + "\\E(:\\d+)?";
                boolean browser = handshake.headers.containsKey("Origin");
                rule(!browser || handshake.header("Origin").matches(own), 403,
                        "a page of another host (§10.2)");
                return List.of();
            }, handler);
        }

        void serve(Welcome welcome, Handler handler) {
            owner = Thread.currentThread();
            try {
                LIVE.add(this);
                open(welcome);
                handler.handle(this);
                close(1000, "");
                while (receive() != null) continue;     // until the Close has its answer
            } catch (Refusal refusal) {
                fail(refusal, "");
            } catch (Throwable bug) {
                if (!(bug instanceof EOFException)) log("" + bug);
                int code = upgraded ? 1011 : 500;
                if (upgraded || !(bug instanceof IOException))
                    fail(new Refusal(code, "the server has a problem (§7.4.1)"), "");
            } finally {
                hangUp();
                LIVE.remove(this);
            }
        }

        private void open(Welcome welcome) throws IOException, GeneralSecurityException {
            socket.setTcpNoDelay(true);
            if (settings.tls != null)                   // §4.2.2: TLS comes before everything else
                stream = settings.tls.getSocketFactory().createSocket(socket, null, true);
            in = new DataInputStream(new BufferedInputStream(stream.getInputStream(), INPUT));
            out = stream.getOutputStream();
            var text = new StringBuilder();
            Handshake handshake;
            try {
                handshake = Handshake.read(in, text);
            } finally {
                trace("in", () -> "the opening handshake (§4.1)" + indented("" + text));
            }
            handshake.check();
            path = handshake.path();
            protocol = handshake.choose(welcome.of(handshake));
            String extensions = Deflate.agree(handshake.list("Sec-WebSocket-Extensions"));
            deflate = settings.deflate && extensions != null;
            synchronized (outbox) {                     // close() must not come in between
                answer(handshake.accept(protocol, deflate ? extensions : null));
                upgraded = true;
            }
        }

        private void answer(String text) throws IOException {
            trace("out", () -> "the answer (§4.2.2)" + indented(text));
            out.write(text.getBytes(UTF_8));
            out.flush();
        }

        /// Waits for the next message, and answers pings and a Close meanwhile.
        /// @return null when the connection has ended: closeCode() tells how
        /// @throws Refusal the peer broke a rule, and has been told
        Message receive() throws Refusal {
            Header header = null;
            try {
                for (; !over; header = null) {
                    outbox.await(settings.maxQueue / 2);
                    in.mark(10);                        // to show a header that is refused
                    header = Header.read(in, deflate, !eitherSide);
                    heard = System.nanoTime();
                    Message whole = header.opcode < CLOSE ? data(header) : control(header);
                    if (whole != null && !outbox.ended) return whole;   // after our Close: §1.4
                }
            } catch (Refusal refusal) {
                fail(refusal, header == null ? culprit("the culprit") : "");
                throw refusal;
            } catch (IOException lost) {
                over = true;                            // §7.1.5: closeCode() stays 1006
                trace("", () -> "the end, without a Close (§7.1.5)" + culprit("unfinished"));
            }
            return null;
        }

        private Message control(Header header) throws IOException {
            byte[] payload = new byte[(int) header.length];
            in.readFully(payload);
            Header.mask(header.key, 0, payload, 0, payload.length);
            trace("in", () -> explain(header, payload, 1, null));
            if (header.opcode == CLOSE) closed(payload);
            if (header.opcode == PING) {                // §5.5.2; a pong needs no answer (§5.5.3)
                outbox.await(PONG_BACKLOG);
                outbox.add(Header.encode(PONG, 0, payload), false, true);
            }
            return null;
        }

        /// §5.5.1: a Close is answered with one of the same code; then TCP is closed.
        private void closed(byte[] payload) throws Refusal {
            int length = payload.length;
            rule(length != 1, 1002, "a Close has a code of two bytes or none (§5.5.1)");
            int code = length == 0 ? 1005 : ByteBuffer.wrap(payload).getChar();
            rule(length == 0 || isLegal(code), 1002, "a Close can't have this code (§7.4)");
            if (length > 2) checkText(payload, 2, length, true);
            closeCode = code;
            closeReason = length == 0 ? "" : new String(payload, 2, length - 2, UTF_8);
            over = true;
            end(Arrays.copyOf(payload, Math.min(2, length)));
        }

        private Message data(Header header) throws IOException {
            boolean first = header.opcode != CONTINUATION;
            int start = gathered;
            try {
                rule(first || opcode >= 0, 1002, "there is no message to continue (§5.4)");
                rule(!first || opcode < 0, 1002, "the message before has not ended (§5.4)");
                if (first) opcode = header.opcode;
                if (first) compressed = header.rsv != 0;
                fragments++;
                int most = settings.maxMessage;         // compressing can make it a little longer
                if (compressed) most += most / 256 + 64;
                rule(header.length <= most - gathered, 1009, "too long (§10.4)");
                rule(header.length > 0 || fragments <= MAX_FRAGMENTS, 1008, "too many (§10.4)");
                read(header.key, (int) header.length);
            } finally {
                trace("in", () -> explain(header, Arrays.copyOfRange(message, start, gathered),
                        fragments, compressed ? Arrays.copyOf(message, gathered) : null));
            }
            return header.fin ? finish() : null;
        }

        /// Reads a payload and checks text while it comes. No length is trusted: the array grows
        /// only with what has come.
        private void read(int key, int length) throws IOException {
            for (int done = 0, got; done < length; done += got) {
                int from = gathered, rest = length - done;
                if (from == message.length)
                    message = Arrays.copyOf(message, from + Math.min(rest, Math.max(from, FIRST)));
                got = in.read(message, from, Math.min(rest, message.length - from));
                if (got < 0) throw new EOFException();
                heard = System.nanoTime();
                gathered += got;
                boolean ascii = Header.mask(key, done, message, from, got);
                if (opcode == TEXT && !compressed) checked = ascii && checked == from ? gathered
                        : checkText(message, checked, gathered, false);
            }
        }

        private Message finish() throws Refusal {
            byte[] payload = message;
            if (gathered < payload.length) payload = Arrays.copyOf(message, gathered);
            if (compressed) payload = Deflate.inflate(payload, settings.maxMessage);
            boolean text = opcode == TEXT;
            if (text && checked < payload.length) checkText(payload, checked, payload.length, true);
            message = new byte[0];
            opcode = -1;
            gathered = checked = fragments = 0;
            return new Message(text, payload);
        }

        /// Sends a message, from any thread. Only the connection's own may have to wait for it.
        /// @return false if nothing can be sent any more
        boolean send(Message message) {
            return upgraded && outbox.add(message.frame(deflate), false, true);
        }

        /// Sends a message, but never waits: for who holds a lock, or speaks to many.
        boolean post(Message message) {
            return upgraded && outbox.add(message.frame(deflate), false, false);
        }

        /// Asks for a sign of life (§5.5.2).
        void ping() { outbox.add(Header.encode(PING, 0, new byte[0]), false, true); }

        /// Begins to close (§7.1.2); receive() returns null when the peer has answered.
        /// @param reason of at most 123 bytes in UTF-8, what is more is cut off
        /// @throws IllegalArgumentException if no Close may carry this code
        void close(int code, String reason) {
            if (!isLegal(code)) throw new IllegalArgumentException("no close code: " + code);
            synchronized (outbox) {
                if (!upgraded) cutOff(null);            // §7.2.2: no frame before it is open
            }
            end(closing(code, reason));
        }

        private void end(byte[] payload) {
            deadline = System.nanoTime() + seconds(CLOSE_TIME);
            outbox.add(Header.encode(CLOSE, 0, payload), true, true);
        }

        State state() {
            if (over) return State.CLOSED;
            return !upgraded ? State.CONNECTING : outbox.ended ? State.CLOSING : State.OPEN;
        }

        String path() { return path; }              // of the request, still percent-encoded
        String protocol() { return protocol; }      // the subprotocol agreed on, or null
        String closeReason() { return closeReason; }

        /// The code of the peer's Close; 1005 if it had none, 1006 if there was no Close (§7.1.5).
        int closeCode() { return closeCode; }

        /// The one place where a failure is answered. Nothing more of the peer is heard (§7.1.7).
        private void fail(Refusal refusal, String culprit) {
            if (over) return;
            over = true;
            deadline = System.nanoTime() + seconds(CLOSE_TIME);
            String why = refusal.getMessage();
            log(refusal.code + " " + why);
            trace("", () -> "refused with " + refusal.code + ": " + why + culprit);
            try {
                if (upgraded) end(closing(refusal.code, why));
                else answer(Handshake.refuse(refusal.code, why + ". " + settings.hint + "\n"));
            } catch (IOException gone) { }
        }

        private void log(String what) { settings.log.accept("#" + number + " " + what); }

        /// @param direction "in", "out", or "" for what befalls the connection itself
        private void trace(String direction, Supplier<String> what) {
            if (settings.trace == null) return;
            String item = "%s #%-4d %-4s%s".formatted(now(), number, direction, what.get());
            settings.trace.accept(item.lines().map(line -> elide(line, 100))
                    .collect(Collectors.joining("\n")));
        }

        private void traceSent(byte[] wire) throws IOException {
            var in = new DataInputStream(new ByteArrayInputStream(wire));
            Header header = Header.read(in, true, false);
            byte[] payload = in.readAllBytes();
            trace("out", () -> explain(header, payload, 1, header.rsv == 0 ? null : payload));
        }

        /// For the trace: the lines of an HTTP message.
        private static String indented(String text) {
            return Pattern.compile("\r\n|(?<=\\G.{94})").splitAsStream(text.strip())
                    .map(line -> "\n    " + printable(line)).collect(Collectors.joining());
        }

        /// For the trace: what has come of the header that was being read.
        private String culprit(String name) {
            try {
                in.reset();
                byte[] bytes = in.readNBytes(Math.min(10, in.available()));
                return bytes.length == 0 ? "" : row(bytes, 0, bytes.length, name, "");
            } catch (IOException gone) {
                return "";
            }
        }

        private boolean inputWaits() {
            try { return in.available() > 0; } catch (IOException gone) { return false; }
        }

        /// §7.1.1: we close our half first and read until the peer has closed his. Closing with
        /// unread input is a reset, and that can overtake the Close frame.
        private void hangUp() {
            over = true;
            outbox.await(0);
            try (socket) {
                stream.shutdownOutput();
                in.skipNBytes(Long.MAX_VALUE);
            } catch (IOException | RuntimeException gone) { }
        }

        /// Ends the connection at once, without a Close: a reset, which leaves nothing unsent.
        void cutOff(String why) {
            outbox.giveUp();
            try (socket) { socket.setSoLinger(true, 0); } catch (IOException closed) { }
            if (why != null) log(why);
        }

        /// One virtual thread looks after all connections. A deadline in each read would cost more,
        /// and could not see who never reads.
        private static void watch() {
            for (; ; LockSupport.parkNanos(seconds(1)))
                for (WebSocket each : LIVE) {
                    try {
                        each.look(System.nanoTime());
                    } catch (Throwable bug) {           // out of memory, say: the others go on
                        each.cutOff(null);
                    }
                }
        }

        private void look(long now) throws IOException {
            boolean ending = !upgraded || outbox.ended;
            boolean stuck = outbox.writing && now - outbox.progress > seconds(2 * SILENCE);
            long silence = ending ? 0 : now - heard, late = ending ? now - deadline : -1;
            if (late > seconds(1) || stuck || silence > seconds(2 * SILENCE))
                cutOff("gave no sign of life");
            else if (late > 0) socket.shutdownInput();  // ends in order, as if the peer had gone
            else if (silence > seconds(SILENCE) && !pinged) ping();
            pinged = silence > seconds(SILENCE);
        }

        private static long seconds(int count) { return count * 1_000_000_000L; }
    }

    /// The same lines on several servers, through Redis, Valkey or what else speaks RESP2. One
    /// connection asks, another hears what is published. While the engine is away, lines stay here.
    abstract static class Redis {
        static final int ANSWER_TIME = 5_000;       // ms for an answer; later, the engine is away
        static final int REFRESH = 15_000;          // ms from one sign of life to the next
        static final int MAX_UNSEEN = 10_000;       // lines under way; with more it is too slow

        private final URI engine;
        private final String prefix, server = UUID.randomUUID() + "-";
        private final Map<String, CountDownLatch> topics = new ConcurrentHashMap<>();
        private final Map<String, Runnable> unseen = new LinkedHashMap<>();     // also the lock
        private final ReentrantLock asking = new ReentrantLock();
        private volatile Link asker, hearer;
        private volatile boolean carries = true, closed;
        private final Thread keeper;
        private long count;

        abstract void deliver(String topic, String line);           // one after the other
        abstract void reachable(boolean again);
        abstract void refresh();                                    // now and then

        /// @param engine redis[s]://[user:password@]host[:port][/prefix]
        /// @throws IOException it can't be reached, or wants another password
        Redis(URI engine) throws IOException {
            this.engine = engine;
            prefix = engine.getPath().replaceFirst("^/?$", "/chat").substring(1) + ":";
            try {
                connect();
            } catch (IOException wrong) {
                throw new IOException("can't use --redis at " + engine.getHost() + ": " + wrong);
            }
            Thread.startVirtualThread(this::hear);
            keeper = Thread.startVirtualThread(() -> {
                while (!closed) {
                    LockSupport.parkNanos(REFRESH * 1_000_000L);
                    refresh();
                    hearer.send("PING");
                }
            });
        }

        /// A connection. Commands are strings which begin with their length in bytes: nothing in
        /// them can be mistaken for a command.
        private record Link(Socket socket, InputStream in) {
            synchronized void send(String... words) {
                var command = new ByteArrayOutputStream();
                command.writeBytes(("*" + words.length + "\r\n").getBytes(UTF_8));
                for (String word : words) {
                    byte[] bytes = (word + "\r\n").getBytes(UTF_8);
                    command.writeBytes(("$" + (bytes.length - 2) + "\r\n").getBytes(UTF_8));
                    command.writeBytes(bytes);
                }
                try {
                    command.writeTo(socket.getOutputStream());
                } catch (IOException lost) {
                    close();
                }
            }

            /// @return the strings and numbers of the answer
            List<String> read() throws IOException {
                var line = new StringBuilder();
                for (int next; (next = in.read()) != '\n'; line.append((char) next))
                    if (next < 0) throw new EOFException("it has hung up");
                String value = line.substring(1).strip();
                if (line.charAt(0) == '-') throw new IOException(value);
                if (!value.matches("\\d+") || line.charAt(0) == ':') return List.of(value);
                int size = Integer.parseInt(value);
                if (line.charAt(0) == '$')
                    return List.of(new String(in.readNBytes(size + 2), 0, size, UTF_8));
                var answer = new ArrayList<String>();
                for (int i = 0; i < size; i++) answer.addAll(read());
                return answer;
            }

            void close() { try { socket.close(); } catch (IOException closed) { } }
        }

        private void connect() throws IOException {
            Link first = link(ANSWER_TIME);
            hearer = link(REFRESH + ANSWER_TIME);
            asker = first;
            for (String topic : topics.keySet()) hearer.send("SUBSCRIBE", prefix + topic);
            hearer.send("PING");                    // what comes before its answer is confirmed
        }

        private Link link(int timeout) throws IOException {
            int port = engine.getPort() < 0 ? 6379 : engine.getPort();
            String[] who = Objects.requireNonNullElse(engine.getUserInfo(), "").split(":", 2);
            String password = who.length > 1 ? who[1] : System.getenv("CHAT_REDIS_PASSWORD");
            Socket socket = new Socket();
            socket.connect(new InetSocketAddress(engine.getHost(), port), ANSWER_TIME);
            socket.setSoTimeout(timeout);
            socket.setTcpNoDelay(true);
            if (engine.getScheme().equals("rediss")) {
                socket = ((SSLSocketFactory) SSLSocketFactory.getDefault())
                        .createSocket(socket, engine.getHost(), port, true);
                SSLParameters parameters = ((SSLSocket) socket).getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                ((SSLSocket) socket).setSSLParameters(parameters);
            }
            var link = new Link(socket, new BufferedInputStream(socket.getInputStream()));
            if (password == null) link.send("PING");
            else if (who[0].isEmpty()) link.send("AUTH", password);
            else link.send("AUTH", who[0], password);
            try {
                link.read();
                return link;
            } catch (IOException refused) {
                link.close();
                throw refused;
            }
        }

        /// Hears until close(). Who loses the engine connects again, after a pause that doubles up
        /// to 10 s and is another on each server.
        private void hear() {
            for (int pause = 100; !closed; pause = Math.min(2 * pause, 10_000)) {
                try {
                    if (hearer.socket.isClosed()) connect();
                    for (; ; pause = 100) heard(hearer.read());
                } catch (IOException | RuntimeException failure) {
                    lose();
                }
                int jitter = ThreadLocalRandom.current().nextInt(pause / 2, pause);
                if (!closed) LockSupport.parkNanos(jitter * 1_000_000L);
            }
        }

        private void heard(List<String> event) {
            String topic = event.size() < 3 ? "" : event.get(1).substring(prefix.length());
            synchronized (unseen) {
                switch (event.get(0)) {
                    case "pong", "PONG" -> {
                        if (carries) return;
                        reachable(carries = true);
                        LockSupport.unpark(keeper);
                    }
                    case "subscribe" ->
                            topics.getOrDefault(topic, new CountDownLatch(1)).countDown();
                    case "message" -> {
                        String[] line = event.get(2).split("\n", 2);
                        if (!line[0].startsWith(server) || unseen.remove(line[0]) != null)
                            deliver(topic, line[1]);
                    }
                    default -> { }
                }
            }
        }

        private void lose() {
            cut();
            synchronized (unseen) {
                if (carries) reachable(carries = false);
                unseen.values().forEach(Runnable::run);
                unseen.clear();
            }
        }

        private void cut() {
            asker.close();
            hearer.close();
        }

        /// @return what the engine answers to a command about a key; nothing if it is away
        List<String> ask(String command, String key, String... rest) {
            asking.lock();
            try {
                Link link = asker;
                link.send(Stream.concat(Stream.of(command, prefix + key), Stream.of(rest))
                        .toArray(String[]::new));
                return link.read();
            } catch (IOException | RuntimeException lost) {
                cut();
                return List.of();
            } finally {
                asking.unlock();
            }
        }

        /// Has a line delivered, here too: once, when it comes back, or when it can't any more.
        void publish(String topic, String line) {
            String id;
            synchronized (unseen) {
                id = server + ++count;
                if (unseen.size() >= MAX_UNSEEN) cut();
                if (!carries || !topics.containsKey(topic)) deliver(topic, line);
                else unseen.put(id, () -> deliver(topic, line));
            }
            if (carries) ask("PUBLISH", topic, id + "\n" + line);
        }

        /// Returns when no line of the topic can be missed any more.
        void subscribe(String topic) {
            var confirmed = topics.computeIfAbsent(topic, same -> new CountDownLatch(1));
            Link link = hearer;
            link.send("SUBSCRIBE", prefix + topic);
            try {
                while (!confirmed.await(50, TimeUnit.MILLISECONDS))
                    if (link.socket.isClosed()) return;
            } catch (InterruptedException stop) { }
        }

        void unsubscribe(String topic) {
            topics.remove(topic);
            hearer.send("UNSUBSCRIBE", prefix + topic);
        }

        void close() {
            closed = true;
            LockSupport.unpark(keeper);
            cut();
        }
    }

    /// Who is in which room, what a line means, who hears it.
    static final class Rooms {
        static final String PRESENCE = "presence";  // subprotocol of who is told of arrivals (§1.9)
        static final int CROWD = 1000;              // members from which on no coming and going is
                                                    // told: N arrivals would cost N² lines
        static final int MAX_ROOMS = 10_000;        // a room needs memory, and names are free
        static final int MAX_LISTED = 100;          // names in the answer to /who
        static final int LIFE = 45_000;             // ms that people of a dead server seem to live
        static final String NAME = "[\\p{L}\\p{M}\\p{N}_-]", JOINED = " has joined.";

        static final class Member {
            private final WebSocket webSocket;
            private final String room;
            private volatile String nick;

            private Member(WebSocket webSocket, String room) {
                this.webSocket = webSocket;
                this.room = room;
            }
        }

        private final Map<String, Set<Member>> rooms = new ConcurrentHashMap<>();
        private final Map<String, Member> nicks = new ConcurrentHashMap<>();
        private final Redis redis;                  // null: there is no other server

        Rooms(URI engine) throws IOException {
            redis = engine == null ? null : new Redis(engine) {
                @Override void deliver(String topic, String line) {
                    tell(topic.substring("room:".length()), line);
                }
                @Override void refresh() {
                    enlist("names", nicks.keySet());
                    for (String room : rooms.keySet()) enlist("who:" + room, present(room));
                }
                @Override void reachable(boolean again) {
                    String how = again ? "can be reached again." : "cannot be reached.";
                    for (String room : rooms.keySet()) tell(room, " .... other servers " + how);
                }
            };
        }

        void close() { if (redis != null) redis.close(); }

        /// The room of a path: `/`, `/chat` and `/chat/lobby` are one, `/chat/NAME` is NAME.
        /// @return null if there can be no such room
        static String named(String path) {
            if (path.equals("/") || path.equals("/chat")) return "lobby";
            try {
                if (!path.startsWith("/chat/")) return null;
                String name = URLDecoder.decode(path.substring(6), UTF_8);
                name = Normalizer.normalize(name, Normalizer.Form.NFC);
                return name.matches(NAME + "{1,64}") ? name : null;
            } catch (IllegalArgumentException badEscape) {
                return null;
            }
        }

        boolean canHold(String room) { return rooms.size() < MAX_ROOMS || rooms.containsKey(room); }

        Member enter(WebSocket webSocket, String room) {
            var member = new Member(webSocket, room);
            do member.nick = "user-" + ThreadLocalRandom.current().nextInt(100_000);
            while (!claim(member.nick, member));
            String arrival = " .... " + member.nick + JOINED;
            Set<Member> members = rooms.compute(room, (same, found) -> {
                Set<Member> all = found == null ? new LinkedHashSet<>() : found;
                synchronized (all) {
                    all.add(member);
                    if (PRESENCE.equals(webSocket.protocol()))
                        webSocket.post(WebSocket.Message.text(arrival));
                    if (redis == null && all.size() <= CROWD) tell(room, arrival);
                    return all;
                }
            });
            if (redis == null) return member;
            redis.subscribe("room:" + room);
            enlist("who:" + room, List.of(member.nick));
            if (members.size() <= CROWD) say(room, arrival);
            return member;
        }

        void leave(Member member) {
            Set<Member> members = rooms.get(member.room);
            synchronized (members) { members.remove(member); }
            if (members.size() < CROWD) say(member.room, " .... " + member.nick + " has left.");
            rooms.computeIfPresent(member.room, (room, all) -> {
                if (all.isEmpty() && redis != null) redis.unsubscribe("room:" + room);
                return all.isEmpty() ? null : all;
            });
            if (redis != null) redis.ask("ZREM", "who:" + member.room, member.nick);
            release(member.nick, member);           // nobody is called so before all know
        }

        private void say(String room, String line) {
            if (redis == null) tell(room, line);
            else redis.publish("room:" + room, line);
        }

        /// Everybody here gets a line, at the same place of one order. An arrival is for those who
        /// asked for that, and who arrives has heard of it. An error with one member is his alone.
        private void tell(String room, String line) {
            var message = WebSocket.Message.text(line);
            String newcomer = line.startsWith(" ") && line.endsWith(JOINED)
                    ? line.substring(6, line.length() - JOINED.length()) : null;
            Set<Member> members = rooms.getOrDefault(room, Set.of());
            synchronized (members) {
                for (Member member : members) {
                    try {
                        if (newcomer == null || PRESENCE.equals(member.webSocket.protocol())
                                && !newcomer.equals(member.nick)) member.webSocket.post(message);
                    } catch (Throwable bug) {
                        member.webSocket.cutOff(null);
                    }
                }
            }
        }

        /// What somebody has typed: a line for all, or a command.
        void hear(Member member, String typed) {
            if (typed.startsWith("/") && !typed.startsWith("//")) {
                String[] words = typed.strip().split("\\s+", 2);
                String answer = obey(member, words[0], words.length > 1 ? words[1] : "");
                var line = WebSocket.Message.text(" .... " + answer);
                if (answer != null) member.webSocket.send(line);
            } else {
                String line = typed.startsWith("/") ? typed.substring(1) : typed;
                say(member.room, member.nick + ": " + line);
            }
        }

        /// The commands. One more is one more case.
        /// @return what only the asker is told, or null
        private String obey(Member member, String command, String rest) {
            return switch (command) {
                case "/nick" -> rename(member, Normalizer.normalize(rest, Normalizer.Form.NFC));
                case "/who" -> who(member.room);
                case "/help" -> "/nick NAME changes your name, /who lists who is here, "
                        + "/help is this. // at the start says a /.";
                default -> "There is no command " + WebSocket.elide(command, 40) + ". Try /help.";
            };
        }

        private String rename(Member member, String nick) {
            String old = member.nick;
            if (!nick.matches(NAME + "{1,24}"))
                return "A name has 1 to 24 letters, digits, - or _.";
            if (!claim(nick, member)) return "The name " + nick + " is taken.";
            member.nick = nick;
            if (redis != null) redis.ask("ZREM", "who:" + member.room, old);
            if (redis != null) enlist("who:" + member.room, List.of(nick));
            if (!key(old).equals(key(nick))) release(old, member);
            say(member.room, " .... " + old + " is now " + nick + ".");
            return null;
        }

        /// Names that look alike are the same: nobody shall speak in another's.
        private static String key(String nick) {
            return Normalizer.normalize(nick, Normalizer.Form.NFKC).toLowerCase(Locale.ROOT);
        }

        /// @return whether the name is his now, on all servers
        private boolean claim(String nick, Member member) {
            Member holder = nicks.putIfAbsent(key(nick), member);
            if (holder != null) return holder == member;
            String end = "" + (System.currentTimeMillis() + LIFE);
            boolean free = redis == null
                    || !redis.ask("ZADD", "names", "NX", end, key(nick)).contains("0");
            if (!free) nicks.remove(key(nick), member);
            return free;
        }

        private void release(String nick, Member member) {
            nicks.remove(key(nick), member);
            if (redis != null) redis.ask("ZREM", "names", key(nick));
        }

        /// Lets all servers know these names for some time, and forget who has not been named.
        private void enlist(String set, Collection<String> names) {
            long now = System.currentTimeMillis();
            var words = new ArrayList<String>();
            for (String name : names) words.addAll(List.of("" + (now + LIFE), name));
            if (names.isEmpty()) return;
            redis.ask("ZADD", set, words.toArray(String[]::new));
            redis.ask("ZREMRANGEBYSCORE", set, "-inf", "" + now);
            redis.ask("PEXPIRE", set, "" + LIFE);
        }

        private List<String> present(String room) {
            Set<Member> members = rooms.getOrDefault(room, Set.of());
            synchronized (members) { return members.stream().map(member -> member.nick).toList(); }
        }

        private String who(String room) {
            var all = new TreeSet<String>(present(room));
            if (redis != null) all.addAll(redis.ask("ZRANGE", "who:" + room, "0", "-1"));
            int more = Math.max(0, all.size() - MAX_LISTED);
            return all.size() + " here: "
                    + all.stream().limit(MAX_LISTED).collect(Collectors.joining(", "))
                    + (more == 0 ? "" : ", and " + more + " more");
        }
    }

    /// The command line.
    static final class Options {
        static final String USAGE = """
                java Chat.java [OPTION ...]       serves a chat until it is stopped
                  --host HOST            where to listen (localhost); 0.0.0.0 is everywhere
                  --http-port PORT       for the page (8080); 0 is any
                  --ws-port PORT         for WebSockets (12345); 0 is any
                  --origin ORIGIN        pages of this origin may connect, too; * is any; repeatable
                  --max-message BYTES    of one message (1048576); more is answered with 1009
                  --max-queue BYTES      waiting for one reader (8388608); with more he is cut off
                  --max-connections N    at a time (10000); more get 503
                  --max-per-address N    of one address but loopback (100); more get 503
                  --keystore FILE        PKCS12, for https and wss; password: CHAT_KEYSTORE_PASSWORD
                  --redis URL            joins other servers; redis[s]://[USER:PASSWORD@]HOST[:PORT]
                                         [/PREFIX]; or password: CHAT_REDIS_PASSWORD
                  --no-deflate           compresses nothing
                  --trace                shows all that travels, here and in the page
                  --explain [HEX ...]    explains frames, given here or on standard input
                  --help, --version
                Fixed: handshake 10 s, its request 8 KiB and 100 headers; ping after 25 s of
                silence, gone after 50 s; closing 5 s; 10000 rooms; names: of rooms 64, of people
                24 letters.""";

        String host = "localhost", answer;
        int httpPort = 8080, wsPort = 12345, maxMessage = 1 << 20, maxQueue = 8 << 20;
        int maxConnections = 10_000, maxPerAddress = 100;
        boolean deflate = true, trace;
        SSLContext tls;
        URI redis;
        final Set<String> origins = new HashSet<>();

        /// @throws IllegalArgumentException with a sentence for whoever typed this
        static Options parse(String... arguments) {
            var options = new Options();
            var words = new ArrayDeque<String>();
            for (String word : arguments)
                words.addAll(List.of(word.split("=", word.startsWith("--") ? 2 : 1)));
            for (String name; (name = words.poll()) != null; ) {
                try {
                    options.set(name, words);
                } catch (IOException | GeneralSecurityException | IllegalArgumentException wrong) {
                    throw new IllegalArgumentException(name + " " + wrong.getMessage());
                }
            }
            return options;
        }

        private void set(String name, Deque<String> words)
                throws IOException, GeneralSecurityException {
            switch (name) {
                case "--host" -> host = value(words, ".+").replaceAll("^[^\\[].*:.*", "[$0]");
                case "--http-port" -> httpPort = number(words, 0, 65535);
                case "--ws-port" -> wsPort = number(words, 0, 65535);
                case "--origin" -> origins.add(
                        value(words, "\\*|https?://[^/\\s]+").toLowerCase(Locale.ROOT));
                case "--max-message" -> maxMessage = number(words, 1, 1 << 30);
                case "--max-queue" -> maxQueue = number(words, 1, 1 << 30);
                case "--max-connections" -> maxConnections = number(words, 1, 1 << 24);
                case "--max-per-address" -> maxPerAddress = number(words, 1, 1 << 24);
                case "--keystore" -> tls = tls(value(words, ".+"));
                case "--redis" -> redis = engine(value(words, ".*"));
                case "--no-deflate" -> deflate = false;
                case "--trace" -> trace = true;
                case "--help" -> answer = USAGE;
                case "--version" -> answer = "Chat.java " + VERSION + ", Java " + Runtime.version();
                case "--explain" -> answer = explain(words);
                default -> throw new IllegalArgumentException("is not an option");
            }
        }

        private static String value(Deque<String> words, String form) {
            if (words.isEmpty()) throw new IllegalArgumentException("needs a value");
            if (words.peek().matches(form)) return words.pop();
            throw new IllegalArgumentException("can't be " + words.peek());
        }

        private static int number(Deque<String> words, int least, int most) {
            String value = value(words, ".*");
            long number = value.matches("\\d{1,10}") ? Long.parseLong(value) : -1;
            if (number >= least && number <= most) return (int) number;
            throw new IllegalArgumentException("is a number from " + least + " to " + most
                    + ", not " + value);
        }

        private static SSLContext tls(String file) throws IOException, GeneralSecurityException {
            String password = System.getenv().getOrDefault("CHAT_KEYSTORE_PASSWORD", "");
            try {
                var keys = KeyManagerFactory.getInstance("PKIX");
                keys.init(KeyStore.getInstance(new File(file), password.toCharArray()),
                        password.toCharArray());
                var context = SSLContext.getInstance("TLS");
                context.init(keys.getKeyManagers(), null, null);
                return context;
            } catch (IOException | GeneralSecurityException | IllegalArgumentException wrong) {
                throw new IllegalArgumentException(file + ": " + wrong.getMessage()
                        + " (its password comes from CHAT_KEYSTORE_PASSWORD)");
            }
        }

        private static URI engine(String url) {
            if (url.matches("rediss?://([^\\s/@]*@)?[^\\s/@:]+(:\\d{1,5})?(/\\S*)?"))
                return URI.create(url);
            throw new IllegalArgumentException(
                    "is redis[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX]");
        }

        private static String explain(Deque<String> words) throws IOException {
            String hex = words.isEmpty() ? new String(System.in.readAllBytes(), US_ASCII)
                    : String.join("", words);
            words.clear();
            try {
                return WebSocket.explain(HexFormat.of().parseHex(hex.replaceAll("[\\s:,]|0x", "")));
            } catch (IllegalArgumentException wrong) {
                throw new IllegalArgumentException("takes bytes in hex, such as 81 00");
            }
        }
    }

    /// What the browser gets.
    static final String PAGE = """
<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>chat</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style nonce="{{nonce}}">
  :root { color-scheme: light dark; scrollbar-color: var(--rule) transparent;
    --paper: light-dark(#fff, #15171b); --ink: light-dark(#1c2128, #e4e7eb);
    --soft: light-dark(#f1f3f6, #24282e); --quiet: light-dark(#5c646e, #98a1ac);
    --rule: light-dark(#dde1e6, #343a42); --accent: light-dark(#2458c8, #8db4ff);
    --own: light-dark(#dfeaff, #23396a); --alarm: light-dark(#b3261e, #ff9d92); }
  * { box-sizing: border-box; margin: 0; }
  [hidden] { display: none !important; }
  body { display: grid; height: 100dvh; overflow-wrap: anywhere;
    grid: "head" auto "log" minmax(0, 1fr) "wire" fit-content(50%) "say" auto / minmax(0, 1fr);
    font: 16px/1.45 system-ui, sans-serif; background: var(--paper); color: var(--ink); }
  input, button { border: 0; border-radius: 14px; font: inherit; color: inherit; }
  button { padding: 4px 16px; background: var(--accent); color: var(--paper); cursor: pointer; }
  .text, #chat-input, #toggle, .field { background: var(--soft); color: var(--ink); }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
  header, #chat-echo-area, #say { padding: 12px max(16px, (100% - 46rem) / 2); }
  header { grid-area: head; display: flex; flex-wrap: wrap; gap: 0 12px; align-items: center; }
  header, #frames li, #wire { border-bottom: 1px solid var(--rule); }
  li, p { white-space: pre-wrap; }
  .wired header { padding: 12px 16px; }
  h1 { font-size: 1.125rem; }
  #status, .name, .notice, #hint, #wire { font-size: .8125rem; }
  #status, .notice { align-self: center; color: var(--quiet); }
  #status, #frames { flex: 1 1 12rem; }
  #status::before { content: "● "; color: var(--alarm); }
  .connected #status::before { color: light-dark(#2b8a3e, #69db7c); }
  ul { position: relative; padding: 0; overflow: hidden auto; list-style: none;
    scrollbar-width: thin; }
  #chat-echo-area { grid-area: log; display: flex; flex-direction: column; }
  #chat-echo-area li { max-width: min(100%, 36rem); margin-top: 12px; }
  #chat-echo-area li:first-child { margin-top: auto; }  /* a short log sits at the bottom */
  #chat-echo-area .again { margin-top: 3px; }
  .name { display: block; padding-left: 12px; font-weight: 600;
    color: light-dark(oklch(.48 .14 var(--hue)), oklch(.8 .11 var(--hue))); }
  .own .name, .again .name { position: absolute; clip-path: inset(50%); }  /* read aloud only */
  .text { display: block; width: fit-content; padding: 6px 12px; border-radius: 14px; }
  .own { align-self: end; --soft: var(--own); }
  #say { grid-area: say; position: relative; display: flex; flex-wrap: wrap; gap: 0 8px; }
  #chat-input { flex: 1; min-width: 0; padding: 9px 14px; border: 1px solid var(--quiet);
    outline-offset: -1px; }
  ::placeholder { color: var(--quiet); opacity: 1; }
  #hint { flex: 1 0 100%; color: var(--alarm); }
  #new { position: absolute; bottom: 100%; left: 50%; translate: -50% -8px; }
  #wire { grid-area: wire; display: flex; flex-direction: column; background: var(--soft); }
  #frames li { padding: 8px 12px; }
  .field { margin: 4px 4px 0 0; padding: 2px 8px; border-radius: 6px; text-align: left;
    background: light-dark(oklch(.91 .07 var(--hue)), oklch(.37 .08 var(--hue))); }
  code { display: block; font: 1em/1.4 ui-monospace, monospace; }
  #meaning { flex: none; height: 5em; padding: 8px 12px; overflow: auto; }
  @media (min-width: 760px) {
    .wired { grid: "head head" auto "log wire" minmax(0, 1fr) "say wire" auto / 1fr 1fr; } }
</style>

<header><h1 id="room"></h1>
  <p id="status"><span id="state" role="status"></span><span id="people"></span></p>
  <button id="toggle" aria-controls="wire" hidden>wire</button>
</header>
<ul id="chat-echo-area" role="log" aria-label="messages" tabindex="0"></ul>
<div id="say">
  <p id="hint" role="alert"></p>
  <input id="chat-input" placeholder="say something" aria-label="message" autocomplete="off"
    enterkeyhint="send" autofocus>
  <button id="send">Send</button><button id="new" hidden></button>
</div>
<section id="wire" aria-label="bytes on the wire" hidden>
  <ul id="frames" aria-label="frames" tabindex="0"></ul>
  <p id="meaning" role="status">Point at a field, or tab to it, to see what it means.</p>
</section>

<script nonce="{{nonce}}">
const byId = id => document.getElementById(id);
const [log, input, hint, newLines] = ['chat-echo-area', 'chat-input', 'hint', 'new'].map(byId);
const room = decodeURIComponent(location.pathname.split('/')[2] || 'lobby');
const [TAB, LF, CR] = String.fromCharCode(9, 10, 13);
const LINE_BREAK = '⏎';  // stands for LF in the <input>, which cannot hold one

// ---- The connection. All that the page knows, it learns from the lines it hears. ----

const host = '{{port}}' ? location.hostname + ':{{port}}' : location.host;  // no port: a proxy
const address = location.protocol.replace('http', 'ws') + '//' + host + location.pathname;
let socket, me, nick, people, retry, watchdog, failures = 0, hiddenAnswers = 0;
const unconfirmed = [];  // said, but not heard back yet

function connect() {
  clearTimeout(retry);
  show('connecting …');
  const current = socket = new WebSocket(address, 'presence');
  socket.onmessage = ({ data }) => { if (socket === current) hear(data); };
  socket.onclose = ({ code }) => { if (socket === current) lost(code); };
  expectLine();
}

// A dead connection can look alive for minutes. But all that is sent brings some line back.
const expectLine = () => { watchdog ??= setTimeout(lost, 20_000); };
const transmit = line => { socket.send(line); expectLine(); };
const countPeople = () => { hiddenAnswers++; transmit('/who'); };

// The server's own reason is not for users' eyes (RFC 6455 section 5.5.1); its code is.
const CAUSES = { 1001: ': the server is stopping', 1003: ': only text is taken here',
  1008: ': a rule was broken', 1009: ': a message was too long', 1011: ': the server failed' };

function lost(code) {
  if (me) addLine(`Connection lost${CAUSES[code] ?? ''}.`);
  socket.close();
  socket = me = people = watchdog = clearTimeout(watchdog);
  // Growing, and different in each browser, lest all come back at once (section 7.2.3).
  const seconds = Math.round(Math.min(30, 2 ** failures++) * (1 + Math.random()));
  retry = setTimeout(connect, seconds * 1000);
  show(`connection lost, trying again in ${seconds} s`);
  if (unconfirmed.length) hint.textContent = code === 1009
    ? 'Too long for the server: please shorten it.' : 'This may not have arrived.';
  input.value = [...unconfirmed.splice(0), input.value].filter(Boolean).join(LINE_BREAK);
}

// Count anew: does the connection live? And rooms of over 1,000 do not tell who comes and goes.
function wake() {
  if (!socket) connect();
  else if (me && !document.hidden) countPeople();
}
for (const type of ['online', 'pageshow', 'visibilitychange']) addEventListener(type, wake);

// No one can forge a notice, since a said line starts with a name.
const NOTICE = /^ [.]{4} (?:([^ :]+) (?:has (joined|left)|is now ([^ :]+))[.]$|([0-9]+) here: )/;

function hear(line) {
  watchdog = clearTimeout(watchdog);
  if (line.startsWith(me + ': ')) unconfirmed.shift();
  if (unconfirmed.length) expectLine();
  const [, name, moved, renamed, count] = line.match(NOTICE) ?? [];
  if (moved && me) people += moved === 'joined' ? 1 : -1;
  if (renamed && name === me) me = nick = renamed;
  if (count) people = Number(count);
  if (moved && !me) {
    me = name;
    failures = hiddenAnswers = 0;
    countPeople();
    if (nick) transmit('/nick ' + nick);  // back after a loss: under the name chosen before
  }
  show('connected as ' + me);
  if (count && hiddenAnswers) hiddenAnswers--;
  else addLine(line);
}

// ---- What one sees ----

function show(state) {
  if (byId('state').textContent !== state) byId('state').textContent = state;  // read aloud
  byId('people').textContent = people > 1 ? ` with ${people} people` : people ? ', alone' : '';
  document.body.classList.toggle('connected', Boolean(me));
}

function create(tag, className, ...children) {
  const element = Object.assign(document.createElement(tag), { className });
  element.append(...children);
  return element;
}

/** Makes a list's adder: it works in batches, keeps the newest, follows a reader at the end. */
function adder(list, limit, onChange = () => {}) {
  let waiting = [], atEnd = true;
  const isAtEnd = () => list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  const follow = () => { if (atEnd) list.scrollTop = list.scrollHeight; };
  const flush = () => {
    onChange(atEnd = isAtEnd(), waiting.length);
    list.append(...waiting.splice(0).slice(-limit));
    while (list.childElementCount > limit) list.firstElementChild.remove();
    follow();
  };
  new ResizeObserver(follow).observe(list);
  list.onscroll = () => onChange(atEnd = isAtEnd(), 0);
  addEventListener('visibilitychange', list.onscroll);
  // A timer, because requestAnimationFrame sleeps in hidden tabs.
  return item => { if (waiting.push(item) === 1) setTimeout(flush, 16); };
}

let unread = 0, lastName, lastSaid = '';
const addItem = adder(log, 1000, (atEnd, added) => {
  unread = atEnd && !document.hidden ? 0 : unread + added;
  newLines.hidden = !unread;
  newLines.textContent = `${unread} new`;
  document.title = (unread ? `(${unread}) ` : '') + room;
});

function addLine(line) {
  const [, name, text] = line.match(/^([^ :]+): (.*)$/s) ?? [];
  const item = name ? create('li', name === me ? 'own' : '', create('bdi', 'name', name, ': '),
    linked(text)) : create('li', 'notice', line);
  item.title = new Date().toLocaleTimeString();
  item.classList.toggle('again', Boolean(name) && name === lastName);
  item.style.setProperty('--hue', hueOf(lastName = name ?? ''));
  addItem(item);
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
  return create('bdi', 'text', ...parts.map((part, i) => i % 2 && URL.canParse(part)
    ? Object.assign(create('a', '', part), { href: part, rel: 'noopener noreferrer',
      target: new URL(part).origin === location.origin ? '' : '_blank' }) : part));
}

// ---- What one does ----

function say() {
  const text = input.value.replaceAll(LINE_BREAK, LF);
  if (!text.trim()) return;
  if (!me || socket.readyState !== WebSocket.OPEN) {
    hint.textContent = 'Not sent, as there is no connection. It stays here.';
    return wake();
  }
  transmit(text);
  lastSaid = input.value;
  if (!/^[/](?![/])/.test(text)) unconfirmed.push(lastSaid);  // commands have no echo
  clear();
  toEnd();
}

const clear = () => { input.value = hint.textContent = ''; };
const toEnd = () => { log.scrollTop = log.scrollHeight; input.focus(); };

const KEYS = { Enter: say, Escape: clear, ArrowUp: () => { input.value ||= lastSaid; } };
input.onkeydown = event => {
  if (event.isComposing || event.keyCode === 229 || !KEYS[event.key]) return;  // 229: an IME's
  event.preventDefault();
  KEYS[event.key]();
};
input.onpaste = event => {
  const text = event.clipboardData.getData('text').replaceAll(CR, '').trimEnd();
  if (!text.includes(LF)) return;
  event.preventDefault();  // and then not setRangeText, which the user could not undo
  document.execCommand('insertText', false, text.replaceAll(LF, LINE_BREAK));
};
[byId('send').onclick, newLines.onclick] = [say, toEnd];

// ---- The bytes on the wire, when the server was started with --trace ----

const [wire, toggle, meaning] = ['wire', 'toggle', 'meaning'].map(byId);
const addTraced = adder(byId('frames'), 200);
let source;

/** One traced item: time, connection, direction and title; then a row for each field. */
function traced(data) {
  const [, time, connection, direction, title] = data.match(/^(\\S+) (\\S+) +(in  |out )?(.*)/);
  const route = { in: connection + ' → server', out: 'server → ' + connection }[direction?.trim()];
  return create('li', '', `${time}  ${route ?? connection}  `, create('b', '', title, LF),
    ...data.split(LF).slice(1).map(row => {
      const [, hex, name, sense = ''] = row.match(/^ {4}(.{23})  (.{1,25}) ?(.*)/) ?? [, '', row];
      const field = create('button', 'field', create('code', '', hex.trim()), name.trim());
      field.onfocus = field.onmouseover = () => { meaning.textContent = name + LF + sense; };
      field.style.setProperty('--hue', hueOf(name.split(/[=:, ]/)[0]));
      return field;
    }));
}

function openWire(open) {
  toggle.ariaExpanded = localStorage.wire = open;
  wire.hidden = !document.body.classList.toggle('wired', open);
  source = open ? new EventSource('/trace') : source?.close();
  if (open) source.onmessage = ({ data }) => addTraced(traced(data));
}
toggle.onclick = () => openWire(!source);
toggle.hidden = '{{trace}}' !== 'true';
if (!toggle.hidden) openWire(localStorage.wire !== 'false');

byId('room').textContent = document.title = room;
connect();
</script>
""";
}

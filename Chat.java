// Chat.java - a WebSocket chat in one file: JDK 21 or later and nothing else. Public domain.

//     java Chat.java                                    the page is at http://localhost:8080
//     java Chat.java --trace                            ... and every byte that travels, explained
//     java Chat.java --explain 818537fa213d7f9f4d5158   one frame, explained

// Chat listens and serves the page. WebSocket turns bytes into messages and back; it knows nothing
// of the chat: cut out, with the imports, it is a library for your own script. Rooms is the chat,
// Redis joins servers. Options and PAGE come last. §5.4: this line obeys that section of RFC 6455.

import com.sun.net.httpserver.*;
import java.io.*;
import java.net.*;
import java.nio.*;
import java.security.*;
import java.security.cert.*;
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
/// In a program of your own: `try (var chat = new Chat(new Chat.Options()).start()) { … }`
public final class Chat implements AutoCloseable {
    static final String VERSION = "1.0";
    static final int WAITING_ROOM = 500;             // connections beyond the limit, to be told so
    static final long PAUSE = 100_000_000;           // ns, after a failure that may last
    static final long FAREWELL = 5_000_000_000L;     // ns for clients to answer our last Close
    static final int MAX_TRACED = 1000;              // items that may wait for one browser

    private final Options options;
    private final Ports ports;
    private final Set<WebSocket> connections = ConcurrentHashMap.newKeySet();
    private final Map<InetAddress, Integer> perAddress = new ConcurrentHashMap<>();
    private final Set<Queue<String>> watchers = ConcurrentHashMap.newKeySet();
    private Rooms rooms;
    private volatile boolean stopping;
    private WebSocket.Settings settings;

    public static void main(String[] arguments) {
        try {
            Options options = new Options(arguments);
            switch (options.task) {
                case SERVE -> serve(options);
                case CONNECT -> throw new IOException("--connect is not there yet");
                case EXPLAIN -> System.out.println(WebSocket.explain(options.frames()));
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
        System.out.println("Chat.java: open " + chat.address("http", options.host)
                + "/ (WebSockets at " + chat.address("ws", options.host) + "/)");
    }

    Chat(Options options) {
        this.options = options;
        ports = new Ports(options, this::page, this::accept);
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
        String hint = "The page is at " + address("http", options.host) + "/";
        settings = new WebSocket.Settings(options.maxMessage, options.maxQueue, options.deflate,
                options.tls, hint, options.trace ? this::trace : null, Chat::log);
        ports.start();
        if (!ports.isLocal() && options.tls == null)
            log("others on the network can reach this, and read along: see README, Security");
        return this;
    }

    int httpPort() { return ports.http(); }
    int webSocketPort() { return ports.webSocket(); }

    /// Of the page (http) or the WebSockets (ws), as in an Origin: the usual port is left out.
    private String address(String scheme, String host) {
        String start = scheme + (options.tls == null ? "" : "s") + "://" + host;
        int port = scheme.equals("ws") ? webSocketPort() : httpPort();
        return port == (options.tls == null ? 80 : 443) ? start : start + ":" + port;
    }

    /// Each connection gets a virtual thread: it may wait as long as it likes, that costs nothing.
    private void accept(Socket socket) throws IOException {
        if (connections.size() >= options.maxConnections + WAITING_ROOM) socket.close();
        else Thread.startVirtualThread(() -> serve(socket));
    }

    private void serve(Socket socket) {
        var webSocket = new WebSocket(socket, settings);
        InetAddress address = socket.getInetAddress(), network = Ports.network(address);
        connections.add(webSocket);
        boolean full = perAddress.merge(network, 1, Integer::sum) > options.maxPerAddress
                && !address.isLoopbackAddress() || connections.size() > options.maxConnections;
        try {
            webSocket.serve(handshake -> welcome(handshake, full), this::converse);
        } finally {
            connections.remove(webSocket);
            perAddress.compute(network, (same, count) -> count == 1 ? null : count - 1);
        }
    }

    /// The life of a connection: enter, hear until there is nothing more to hear, leave.
    private void converse(WebSocket webSocket) throws IOException {
        boolean echo = webSocket.path().equals("/echo");
        Rooms.Member member = echo ? null : rooms.enter(webSocket, Rooms.ofPath(webSocket.path()));
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
    private List<String> welcome(WebSocket.Handshake request, boolean full) throws IOException {
        String path = request.path(), room = Rooms.ofPath(path);
        WebSocket.rule(!stopping, 503, "the server stops: try again later");
        WebSocket.rule(!full, 503, "too many connections: try again later");
        WebSocket.rule(knows(request.host()), 403,
                "this server has other names; --host or --origin adds it");
        WebSocket.rule(allows(request.headers().get("Origin"), request.header("Host")), 403,
                "pages of another origin may not connect (§10.2); --origin ORIGIN allows it");
        WebSocket.rule(room != null || path.equals("/echo"), 404,
                "there is /, /echo, /chat, /chat/NAME (64 letters, digits, - or _) (§4.2.2)");
        WebSocket.rule(room == null || rooms.canHold(room), 503, "too many rooms, try the lobby");
        return room == null ? List.of() : List.of(Rooms.PRESENCE);
    }

    /// On the loopback address only its own names will do: any web page can let a name of its own
    /// point to 127.0.0.1, and would be "the same origin" as this server (DNS rebinding).
    private boolean knows(String host) {
        return host != null && (!ports.isLocal() || isOurs(Origin.name(host)));
    }

    /// Whether nobody else's DNS can let this name point here.
    private boolean isOurs(String name) {
        return List.of("localhost", "127.0.0.1", "[::1]", options.host).contains(name)
                || options.origins.stream().anyMatch(origin -> origin.isOf(name));
    }

    /// §10.2: Origin says which page wants to connect. Only browsers can be relied on to say so;
    /// any other program says nothing or what it likes, and can come in by saying nothing.
    private boolean allows(String text, String hostAndPort) {
        if (text == null) return true;                          // no browser
        Origin origin = Origin.of(text);
        if (options.origins.stream().anyMatch(allowed -> allowed.allows(origin))) return true;
        Origin dialled = Origin.of((options.tls == null ? "http://" : "https://") + hostAndPort);
        return origin != null && dialled != null && (isOfNoPage(origin, dialled)
                || origin.equals(Origin.of(address("http", dialled.host))));
    }

    /// Many programs invent an Origin from the URL of the WebSocket: http://HOST:PORT. No page can
    /// have that one, as none comes from this port: it answers with a WebSocket or with plain text.
    /// So to let it in is as safe as to let in who sends none, but only under a name or a number
    /// that is ours: else a stranger's server may have sent a page from its own port of that number
    /// before its name pointed here.
    private boolean isOfNoPage(Origin origin, Origin dialled) {
        int port = webSocketPort();
        return origin.host.equals(dialled.host) && (dialled.isAddress() || isOurs(dialled.host))
                && origin.portNumber() == port && dialled.portNumber() == port;
    }

    /// Answers a browser: with the page, at /trace with the wire, or with where the page is.
    private void page(HttpExchange exchange) throws IOException {
        String path = "" + exchange.getRequestURI().getRawPath(), nonce = "" + UUID.randomUUID();
        var hosts = exchange.getRequestHeaders().getOrDefault("Host", List.of());
        String hostAndPort = String.join(",", hosts), method = exchange.getRequestMethod();
        String host = WebSocket.Handshake.hostName(hostAndPort);
        boolean head = method.equals("HEAD");
        // Who comes by another port comes through a proxy, which makes both ports one.
        boolean direct = address("http", host).endsWith("//" + hostAndPort);
        // The wire shows what everybody says, so it is only for who sits at this machine.
        boolean wire = options.trace && path.equals("/trace") && direct
                && exchange.getRemoteAddress().getAddress().isLoopbackAddress();
        boolean known = hosts.isEmpty() && exchange.getProtocol().equals("HTTP/1.0") || knows(host);
        if (known && method.equals("OPTIONS")) {                 // a health check
            exchange.getResponseHeaders().set("Allow", "GET, HEAD, OPTIONS");
            exchange.sendResponseHeaders(204, -1);
            exchange.close();
            return;
        }
        int status = !known ? 403 : !wire && Rooms.ofPath(path) == null ? 404
                : head || method.equals("GET") ? 200 : 405;
        wire &= status == 200;
        byte[] body = (status != 200 ? settings.hint() : wire ? "" : PAGE
                .replace("{{nonce}}", nonce).replace("{{trace}}", "" + options.trace)
                .replace("{{port}}", direct ? "" + webSocketPort() : "")).getBytes(UTF_8);
        Headers headers = exchange.getResponseHeaders();
        headers.putAll(Headers.of("Content-Type", (status != 200 ? "text/plain" : wire
                ? "text/event-stream" : "text/html") + "; charset=utf-8", "Allow", "GET, HEAD",
                "Cache-Control", "no-store", "Referrer-Policy", "no-referrer",
                "X-Content-Type-Options", "nosniff", "Content-Security-Policy", ("default-src "
                + "'none'; script-src 'nonce-%1$s'; style-src 'nonce-%1$s'; connect-src 'self' "
                + "%2$s; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors "
                + "'none'").formatted(nonce, direct ? address("ws", host) : "")));
        if (!wire) headers.set("Content-Length", "" + body.length);         // for HEAD
        try (exchange) {
            exchange.sendResponseHeaders(status, head ? -1 : body.length);  // 0: without an end
            if (head) return;
            exchange.getResponseBody().write(body);
            if (wire) stream(exchange.getResponseBody());
        }
    }

    /// Tells a browser what is traced, as server-sent events, until either goes.
    private void stream(OutputStream body) {
        ports.takeAnyTime();
        var queue = new ArrayBlockingQueue<String>(MAX_TRACED);
        watchers.add(queue);
        try (var out = new PrintStream(body, false, UTF_8)) {
            out.print(":\n\n");                    // a comment: from now on nothing is missed
            while (!out.checkError())               // which flushes, too
                out.print("data: " + queue.take().replace("\n", "\ndata: ") + "\n\n");
        } catch (InterruptedException closing) {    // by close()
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

    /// Stops: takes no more connections, sends everyone 1001 (§7.4.1), waits some seconds for their
    /// answers, and cuts off who is left. Nothing stays behind.
    @Override
    public void close() {
        stopping = true;
        ports.close();
        for (WebSocket webSocket : connections) webSocket.close(1001, "the server stops (§7.4.1)");
        // The JVM runs each signal in a thread named after it. A second one means: at once.
        Predicate<Thread> signal = thread -> thread.getName().matches("SIG.* handler");
        long start = System.nanoTime();
        while (!connections.isEmpty() && System.nanoTime() - start < FAREWELL
                && Thread.getAllStackTraces().keySet().stream().filter(signal).count() < 2)
            LockSupport.parkNanos(10_000_000);
        for (WebSocket webSocket : connections) webSocket.cutOff(null);
        if (rooms != null) rooms.close();
    }

    /// One connection, from the server's side: RFC 6455, compression by RFC 7692.
    ///
    ///     WebSocket.serve(socket, webSocket -> {                                    // opened
    ///         while (webSocket.receive() instanceof WebSocket.Message message)      // a message
    ///             webSocket.send(message);
    ///         System.out.println(webSocket.closeCode());                            // closed
    ///     });
    ///
    /// The thread that calls serve() does the reading; any may send, ping and close, but only that
    /// one may wait for the peer. Who breaks a rule is told which: receive() throws the Refusal.
    static final class WebSocket {
        static final int HANDSHAKE_TIME = 10;       // seconds in all, however the bytes trickle in
        static final int MAX_HEAD = 8 * 1024;       // bytes of a request: what common servers take
        static final int MAX_HEADERS = 100;         // of a request, for the same reason
        static final int SILENCE = 25;              // seconds to a ping; proxies cut at 60
        static final int CLOSE_TIME = 5;            // seconds between our Close and the end of TCP
        static final int MAX_FRAGMENTS = 100_000;   // of a message: empty ones can come for ever
        static final int INPUT = 512;               // bytes of input buffer: most peers are idle
        static final int PONG_BACKLOG = 16 * 1024;  // unwritten bytes at which his pings wait
        static final int DEFLATE_FROM = 1024;       // bytes from which compressing pays

        /// What holds for all connections of a server. The limits are in bytes; trace (or null)
        /// hears of all that travels, log of each failure; who is refused reads the hint.
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
        record Handshake(String method, String path, Map<String, String> headers) {
            static final String TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
            static final Pattern REQUEST = Pattern.compile("(" + TOKEN + ") (?:https?://"
                    + "[^/?#\\s]+)?(/[!-~&&[^?#]]*)(\\?[!-~&&[^#]]*)? HTTP/1\\.[1-9]");
            static final Pattern HEADER = Pattern.compile("(" + TOKEN + "):([\t -~\\x80-\\xff]*)");
            static final Pattern KEY = Pattern.compile("[A-Za-z0-9+/]{22}==");
            static final Pattern HOST = Pattern.compile(
                    "(\\[[0-9A-Fa-f:.]{2,45}]|[0-9A-Za-z._-]{1,253})(?::\\d{1,5})?");
            /// Reason phrases, and the headers that a status demands (§4.4).
            static final Map<Integer, String> STATUS = Map.of(400, "Bad Request", 403, "Forbidden",
                    404, "Not Found", 405, "Method Not Allowed\r\nAllow: GET", 426, "Upgrade "
                    + "Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
                    431, "Request Header Fields Too Large", 500, "Internal Server Error",
                    503, "Service Unavailable");

            /// Reads up to CR LF CR LF; `last` holds the four bytes before.
            static Handshake read(DataInputStream in, Consumer<String> show) throws IOException {
                var text = new StringBuilder();
                try {
                    for (int last = 0, next; last != 0x0d0a0d0a; last = last << 8 | next) {
                        rule(text.length() < MAX_HEAD, 431, "more than " + MAX_HEAD + " bytes");
                        next = in.readUnsignedByte();
                        rule((next == '\n') == ((byte) last == '\r'), 400, "lines end with CR LF");
                        text.append((char) next);
                    }
                } finally { show.accept("" + text); }           // be it right or not
                List<String> lines = text.toString().lines().toList();
                Matcher request = REQUEST.matcher(lines.get(0));
                rule(request.matches(), 400, "this is not an HTTP/1.1 request (§4.2.1)");
                rule(lines.size() - 2 <= MAX_HEADERS, 431, "more than " + MAX_HEADERS + " headers");
                var headers = new TreeMap<String, String>(String.CASE_INSENSITIVE_ORDER);
                for (String line : lines.subList(1, lines.size() - 1)) {
                    Matcher header = HEADER.matcher(line);            // no blank before the colon
                    rule(header.matches(), 400, "a header is not NAME: VALUE (§4.2.1)");
                    headers.merge(header.group(1), header.group(2).strip(), (a, b) -> a + "," + b);
                }
                return new Handshake(request.group(1), request.group(2), headers).check();
            }

            /// The conditions of §4.2.1, in the order that gives the most helpful answer.
            private Handshake check() throws Refusal {
                String version = header("Sec-WebSocket-Version"), key = header("Sec-WebSocket-Key");
                rule(method.equals("GET"), 405, "a WebSocket begins with GET (§4.2.1)");
                rule(host() != null, 400, "one valid Host is needed (§4.2.1)");
                rule(has("Upgrade", "websocket"), 426, "this port is for WebSockets only (§4.2.1)");
                rule(Stream.of("Content-Length", "Transfer-Encoding")
                        .noneMatch(headers::containsKey), 400, "a GET has no body (§4.2.1)");
                rule(has("Connection", "upgrade"), 400, "Connection: Upgrade is missing (§4.2.1)");
                rule(KEY.matcher(key).matches(), 400, "one key of 16 bytes is needed (§4.2.1)");
                rule(version.matches("[^,]+"), 400, "one version is needed (§4.2.1)");
                rule(version.equals("13"), 426, "the only version is 13 (§4.4)");
                return this;
            }

            String header(String name) { return headers.getOrDefault(name, ""); }

            List<String> list(String name) {
                return Stream.of(header(name).split(",")).map(String::strip)
                        .filter(element -> !element.isEmpty()).toList();    // empty: means nothing
            }

            private boolean has(String name, String element) {
                return list(name).stream().anyMatch(element::equalsIgnoreCase);
            }

            String host() { return hostName(header("Host")); }

            /// The name by which a client calls this server, without the port; null for none.
            static String hostName(String hostAndPort) {
                Matcher host = HOST.matcher(hostAndPort);
                return host.matches() ? host.group(1).toLowerCase(Locale.ROOT) : null;
            }

            /// §4.2.2: the first subprotocol offered that is known here, or null.
            String choose(List<String> known) throws Refusal {
                List<String> offers = list("Sec-WebSocket-Protocol");
                for (String offer : offers)
                    rule(offer.matches(TOKEN), 400, "a subprotocol is a token (§11.3.4)");
                return offers.stream().filter(known::contains).findFirst().orElse(null);
            }

            /// §4.2.2: the answer after which the connection is a WebSocket. The accept value shows
            /// that the request was understood; it is no secret (§10.8), nor is the text in it.
            String accept(String protocol, String extensions) throws NoSuchAlgorithmException {
                String text = header("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
                byte[] sha = MessageDigest.getInstance("SHA-1").digest(text.getBytes(US_ASCII));
                return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        + "Connection: Upgrade\r\nSec-WebSocket-Accept: "
                        + Base64.getEncoder().encodeToString(sha)
                        + (protocol == null ? "" : "\r\nSec-WebSocket-Protocol: " + protocol)
                        + (extensions == null ? "" : "\r\nSec-WebSocket-Extensions: " + extensions)
                        + "\r\n\r\n";
            }

            /// An HTTP error in place of it. It repeats nothing that the client has sent.
            static String refuse(int status, String body) {
                return "HTTP/1.1 " + status + " " + STATUS.get(status) + "\r\nConnection: close"
                        + (status == 426 ? ", Upgrade" : "") + "\r\nContent-Type: text/plain; "
                        + "charset=utf-8\r\nContent-Length: " + body.getBytes(UTF_8).length
                        + "\r\n\r\n" + body;
            }
        }

        // ---- Frames (§5.2) --------------------------------------------------------------------
        // A message is one TEXT or BINARY frame, or several: all but the last have FIN 0, all but
        // the first are CONTINUATIONs. From CLOSE on they are control frames, which are whole and
        // may come between those of a message (§5.4).

        static final int CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;
        static final Map<Integer, String> OPCODES = Map.of(CONTINUATION, "CONTINUATION",
                TEXT, "TEXT", BINARY, "BINARY", CLOSE, "CLOSE", PING, "PING", PONG, "PONG");

        /// What stands before the payload.
        ///
        ///      0 1 2 3 4 5 6 7   0 1 2 3 4 5 6 7
        ///     +-+-+-+-+-------+ +-+-------------+ +----------------+ +----------------+
        ///     |F|R|R|R|opcode | |M| length      | | longer length: | | masking key:   |
        ///     |I|S|S|S|       | |A|  126: 2 more| | 2 or 8 bytes,  | | 4 bytes, if    |
        ///     |N|V|V|V|       | |S|  127: 8 more| | big-endian     | | MASK is 1      |
        ///     +-+1+2+3+-------+ +K+-------------+ +----------------+ +----------------+
        record Header(boolean fin, int rsv, int opcode, boolean masked, int key, long length) {
            static final int FIN = 0x80, MASK = 0x80, RSV1 = 0x40, TWO_MORE = 126, EIGHT_MORE = 127;

            /// Reads a header and checks, as early as possible, all that it alone can break.
            static Header read(DataInputStream in, boolean deflate, boolean mustBeMasked)
                    throws IOException {
                int first = in.readUnsignedByte(), second = in.readUnsignedByte();
                int opcode = first & 0x0f, rsv = first & 0x70, form = second & 0x7f;
                boolean fin = (first & FIN) != 0, masked = (second & MASK) != 0;
                rule(OPCODES.containsKey(opcode), 1002, "this opcode means nothing (§5.2)");
                rule(rsv == 0 || rsv == RSV1 && deflate, 1002, "a reserved bit is set (§5.2)");
                rule(rsv == 0 || opcode == TEXT || opcode == BINARY, 1002,
                        "RSV1 is for a message's first frame (RFC 7692 §6.1)");
                rule(masked || !mustBeMasked, 1002, "a client must mask its frames (§5.1)");
                rule(opcode < CLOSE || fin && form < TWO_MORE, 1002,
                        "a control frame is whole and has at most 125 bytes (§5.5)");
                long length = form == TWO_MORE ? in.readUnsignedShort()
                        : form == EIGHT_MORE ? in.readLong() : form;
                rule(length >= 0, 1002, "the highest bit of a length is 0 (§5.2)");
                rule(form == form(length), 1002, "a length has its shortest form (§5.2)");
                return new Header(fin, rsv, opcode, masked, masked ? in.readInt() : 0, length);
            }

            private static int form(long length) {
                return length < TWO_MORE ? (int) length : length < 1 << 16 ? TWO_MORE : EIGHT_MORE;
            }

            /// A server's frame on the wire: whole, and not masked (§5.1).
            static byte[] encode(int opcode, int rsv, byte[] payload) {
                return new Header(true, rsv, opcode, false, 0, payload.length).encode(payload);
            }

            byte[] encode(byte[] payload) {
                int form = form(length), size = form < TWO_MORE ? 2 : form == TWO_MORE ? 4 : 10;
                var wire = ByteBuffer.allocate(size + (masked ? 4 : 0) + payload.length);
                wire.put((byte) ((fin ? FIN : 0) | rsv | opcode));
                wire.put((byte) ((masked ? MASK : 0) | form));
                if (form == TWO_MORE) wire.putShort((short) length);
                if (form == EIGHT_MORE) wire.putLong(length);
                if (masked) wire.putInt(key);
                int start = wire.position();
                mask(key, 0, wire.put(payload).array(), start, wire.position());
                return wire.array();
            }

            /// §5.3: byte i of a payload XOR byte i mod 4 of the key; `done` bytes came before. It
            /// takes eight at a time; `all` gathers their highest bits.
            /// @return whether the result is ASCII, and so UTF-8 without a further look
            static boolean mask(int key, int done, byte[] bytes, int from, int to) {
                int turned = Integer.rotateLeft(key, 8 * done), i = from;
                long twice = (long) turned << 32 | turned & 0xffffffffL, all = 0;
                var eights = ByteBuffer.wrap(bytes);
                for (; i + 8 <= to; i += 8)
                    all |= eights.putLong(i, eights.getLong(i) ^ twice).getLong(i);
                for (; i < to; i++) all |= bytes[i] ^= (byte) (turned >>> 24 - 8 * (i - from & 3));
                return (all & 0x8080808080808080L) == 0;
            }
        }

        /// §7.4: whether a Close may carry this code. 1000: done, 1001: going away, 1002: rule
        /// broken, 1003: wrong kind of data, 1007: no UTF-8, 1008: not allowed, 1009: too long,
        /// 1011: our fault, from 3000 on: yours. Never sent: 1005 (no code), 1006 (no Close).
        static boolean isLegal(int code) {
            return code >= 1000 && code < 1004 || code > 1006 && code < 1015
                    || code >= 3000 && code < 5000;
        }

        // ---- Messages (§5.6) ------------------------------------------------------------------

        /// What programs exchange. It is encoded once, and compressed once, for all it is sent to:
        /// the frames. The payload of a text is UTF-8; that of a received one has been checked.
        record Message(boolean isText, byte[] payload, byte[][] frames) {
            Message(boolean isText, byte[] payload) { this(isText, payload, new byte[2][]); }
            static Message text(String text) { return new Message(true, text.getBytes(UTF_8)); }
            String text() { return new String(payload, UTF_8); }

            private synchronized byte[] frame(boolean deflate) {
                int opcode = isText ? TEXT : BINARY;
                if (frames[0] == null) frames[0] = Header.encode(opcode, 0, payload);
                if (!deflate || payload.length < DEFLATE_FROM) return frames[0];
                if (frames[1] == null)
                    frames[1] = Header.encode(opcode, Header.RSV1, deflate(payload));
                return frames[1].length < frames[0].length ? frames[1] : frames[0];
            }
        }

        /// §8.1: checks UTF-8; returns where an incomplete character begins, if that is not all.
        static int checkText(byte[] bytes, int from, int to, boolean whole) throws Refusal {
            var rest = ByteBuffer.wrap(bytes, from, to - from);
            var result = UTF_8.newDecoder().decode(rest, CharBuffer.allocate(to - from), whole);
            // ed a0 to ed bf become a surrogate; the decoder notices only at the next byte
            boolean surrogate = rest.remaining() == 2 && (rest.getShort(to - 2) & 0xffe0) == 0xeda0;
            rule(!result.isError() && !surrogate, 1007, "text must be UTF-8 (§8.1)");
            return rest.position();
        }

        // ---- Compression: permessage-deflate (in this part § is of RFC 7692) -------------------
        // Nothing is remembered from one message to the next: an idle connection needs no window,
        // and one compressed message serves everybody.

        static final Pattern OFFER = Pattern.compile(       // T: token; *+ never goes back, or deep
                "T(\\s*;\\s*T(\\s*=\\s*(T|\"[!-~&&[^\"]]+\"))?)*+".replace("T", Handshake.TOKEN));
        /// §7.1.2: java.util.zip can't promise a window of less than 15 bits, but reads all sizes.
        static final Pattern KEPT = Pattern.compile("permessage-deflate(;server_max_window_bits=15"
                + "|;client_max_window_bits(=([89]|1[0-5]))?"
                + "|;(client|server)_no_context_takeover)*+");

        /// §7.1: the answer to the first offer that can be kept, or null for no compression.
        static String agree(List<String> offers) throws Refusal {
            for (String offer : offers)
                rule(OFFER.matcher(offer).matches(), 400, "no list of extensions (§9.1)");
            for (String offer : offers) {
                String plain = offer.replaceAll("[\\s\"\\\\]", "");
                List<String> names = List.of(plain.replaceAll("=[^;]*", "").split(";"));
                if (KEPT.matcher(plain).matches() && names.size() == new HashSet<>(names).size())
                    return "permessage-deflate; server_no_context_takeover; "
                            + "client_no_context_takeover"
                            + (plain.contains("server_max") ? "; server_max_window_bits=15" : "");
            }
            return null;
        }

        static byte[] deflate(byte[] message) {
            var deflater = new Deflater(Deflater.BEST_SPEED, true);                 // true: raw
            byte[] out = new byte[message.length + message.length / 256 + 64];      // is enough
            deflater.setInput(message);
            int size = deflater.deflate(out, 0, out.length, Deflater.SYNC_FLUSH);
            deflater.end();
            return Arrays.copyOf(out, size - 4);        // §7.2.1: without what ends each flush
        }

        static byte[] inflate(byte[] message, int limit) throws Refusal {
            rule(message.length > 0, 1002, "compressed data is never empty (RFC 7692 §7.2.1)");
            byte[] input = Arrays.copyOf(message, message.length + 4), chunk = new byte[8192];
            Arrays.fill(input, message.length + 2, input.length, (byte) 0xff);  // §7.2.2: 0 0 ff ff
            var inflater = new Inflater(true);
            var out = new ByteArrayOutputStream(2 * input.length);
            try {
                for (int rest = input.length; rest > 0; rest = inflater.getRemaining()) {
                    inflater.reset();               // after a block marked as the last: §7.2.3.4
                    inflater.setInput(input, input.length - rest, rest);
                    for (int got; (got = inflater.inflate(chunk)) > 0; out.write(chunk, 0, got))
                        rule(out.size() + got <= limit, 1009, "inflated, it is too long");
                }
                return out.toByteArray();
            } catch (DataFormatException broken) {
                throw new Refusal(1007, "this is not DEFLATE (RFC 7692 §7.2.2)");
            } finally { inflater.end(); }
        }

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
        private final Socket socket;                    // null: there are only bytes to explain
        private final Settings settings;
        private final Outbox outbox = new Outbox();     // also the lock of state
        private Socket channel;                         // the socket, or TLS over it
        private DataInputStream in;
        private OutputStream out;
        private Thread owner;
        private long number;
        private String path, protocol, closeReason = "";
        private int closeCode = 1006;
        private boolean deflating, pinged, compressed;
        private volatile State state = State.CONNECTING;
        private volatile long heard = System.nanoTime(), deadline = heard + seconds(HANDSHAKE_TIME);
        // The message that is coming: how many fragments of it (0: there is none), its opcode, how
        // many bytes, how many of these are checked, and the bytes.
        private int fragments, opcode, gathered, checked;
        private byte[] message = {};

        WebSocket(Socket socket, Settings settings) {
            this.socket = channel = socket;
            this.settings = settings;
        }

        // ---- Bytes out ------------------------------------------------------------------------

        /// Frames on their way to one socket. Others' threads never wait: a virtual one writes all
        /// that has piled up, and ends. Who lets too much pile up is cut off: to wait would hold up
        /// others, to leave a message out would be a lie.
        private final class Outbox {
            private List<byte[]> waiting = List.of();
            private long batch;                         // bytes that are being written
            private volatile long unwritten;            // bytes, with those that are being written
            private volatile long progress;             // ns: when it last began to write
            private volatile Thread sleeper;            // in await()

            /// @param mayWait whether the connection's own thread may write it itself
            boolean add(byte[] frame, boolean mayWait) {
                boolean full, idle;
                synchronized (this) {
                    if (state != State.OPEN) return false;
                    idle = unwritten == 0;
                    if (idle) progress = System.nanoTime();
                    full = unwritten > settings.maxQueue;
                    if (full || (frame[0] & 0x0f) == CLOSE) state = State.CLOSING;      // §5.5.1
                    unwritten += frame.length;
                    if (waiting.isEmpty()) waiting = new ArrayList<>(4);
                    waiting.add(frame);
                }
                if (full) cutOff("reads too slowly: " + unwritten + " bytes wait");
                // Unless more input waits: the answers to all of it can share one system call.
                else if (idle && mayWait && Thread.currentThread() == owner && !inputWaits()) run();
                else if (idle) Thread.startVirtualThread(this::run);
                return !full;
            }

            private void run() {
                try {
                    for (List<byte[]> frames; !(frames = take()).isEmpty(); ) {
                        var stream = frames.size() == 1 ? out   // one system call for all
                                : new BufferedOutputStream(out, Math.clamp(batch, 1, 1 << 16));
                        if (settings.trace != null)
                            frames.forEach(frame -> trace("out", () -> explain(frame)));
                        for (byte[] frame : frames) stream.write(frame);
                        stream.flush();
                    }
                } catch (IOException lost) { cutOff(null); }
            }

            /// The batch before has been written. @return the next one
            private synchronized List<byte[]> take() {
                unwritten -= batch;
                batch = unwritten;
                progress = System.nanoTime();
                LockSupport.unpark(sleeper);
                List<byte[]> frames = waiting;
                waiting = List.of();
                return frames;
            }

            synchronized void giveUp() {
                if (state != State.CLOSED) state = State.CLOSING;
                unwritten = batch = 0;
                waiting = List.of();
                LockSupport.unpark(sleeper);
            }

            /// Waits until at most `most` bytes are unwritten: who doesn't read isn't read from.
            void await(long most) {
                sleeper = Thread.currentThread();
                while (unwritten > most) LockSupport.park(this);
                sleeper = null;
            }
        }

        // ---- What travels, explained ----------------------------------------------------------

        /// Whether stderr is a terminal. (JDK 22 to 24 always claim to have a console.)
        static final boolean COLOUR = System.console() != null && System.getenv("NO_COLOR") == null
                && !new File("/dev/stderr").isFile()
                && !List.of(22, 23, 24).contains(Runtime.version().feature());

        static String coloured(String traced) {
            return !COLOUR ? traced : traced.replaceAll("(?m)^\\S.*$", "\033[1m$0\033[0m")
                    .replaceAll("(?m)^    [0-9a-f]{2} .{20}", "\033[36m$0\033[0m");
        }

        /// A title, then a row for each field of a frame: its bytes, its name and what it means.
        private String explain(Header header, byte[] payload, byte[] inflated) {
            byte[] wire = header.encode(payload);
            int opcode = header.opcode, payloadAt = wire.length - payload.length;
            int keyAt = header.masked ? payloadAt - 4 : payloadAt, more = keyAt - 2;
            String name = OPCODES.get(opcode), role = opcode == CLOSE ? " (§5.5.1)"
                    : opcode == PING ? ", wants a PONG (§5.5.2)" : opcode == PONG ? " (§5.5.3)"
                    : !header.fin ? ", fragment " + fragments + ", more to come (§5.4)"
                    : fragments == 1 ? ", a whole message (§5.6)"
                    : ", the last of " + fragments + " fragments (§5.4)";
            String text = name + " frame, " + header.length
                    + (header.length == 1 ? " byte" : " bytes")
                    + row(wire, 0, 1, "FIN=%d RSV=%d00 opcode=%d".formatted(header.fin ? 1 : 0,
                    header.rsv / Header.RSV1, opcode), name + role)
                    + row(wire, 1, 2, "MASK=" + (wire[1] >> 7 & 1) + " length=" + (wire[1] & 127),
                    more == 0 ? "the length itself (§5.2)" : "so " + more + " more bytes (§5.2)");
            if (more > 0) text += row(wire, 2, keyAt, "length=" + header.length, "(§5.2)");
            if (header.masked)
                text += row(wire, keyAt, payloadAt, "masking key", "always new (§5.3)")
                        + row(wire, payloadAt, wire.length, "payload, masked", "");
            text += row(payload, 0, payload.length, "payload", compressed && opcode < CLOSE
                    ? "compressed (RFC 7692 §7.2)" : meaning(opcode, payload));
            int size = inflated == null ? 0 : inflated.length;
            return inflated == null ? text : text + row(inflated, 0, size, "inflated to " + size,
                    "saves " + (size - gathered) + ": " + meaning(TEXT, inflated));
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

        /// Explains frames of either direction, until one of them breaks a rule.
        static String explain(byte[] frames) {
            var text = new StringJoiner("\n");
            var webSocket = new WebSocket(null,
                    new Settings(1 << 30, 0, true, null, "", text::add, line -> { }));
            webSocket.in = new DataInputStream(new ByteArrayInputStream(frames));
            webSocket.deflating = true;
            webSocket.state = State.CLOSING;            // so it reads to the end, and says nothing
            try { webSocket.receive(); } catch (Refusal explained) { }
            return text.toString().replaceFirst("\n?the end, without a Close \\(§7.1.5\\)$", "");
        }

        static String elide(String text, int most) {
            return text.replaceAll("(?dm)^(.{" + (most - 1) + "})..+", "$1…");
        }

        /// For a terminal: what could break a line or steer it, like ESC, becomes a number.
        static String printable(String text) {
            return Pattern.compile("[\\p{C}\\p{Zl}\\p{Zp}]").matcher(text).replaceAll(
                    unsafe -> "\\\\u{%x}".formatted(unsafe.group().codePointAt(0)));
        }

        static String now() { return "%tT.%<tL".formatted(System.currentTimeMillis()); }

        // ---- The life of a connection ---------------------------------------------------------

        /// Serves one connection from its first byte to its last. Pages of other hosts may not
        /// connect: they would act in the name of whoever looks at them (§10.2).
        static void serve(Socket socket, Handler handler) {
            new WebSocket(socket, Settings.DEFAULT).serve(handshake -> {
                String origin = handshake.headers.get("Origin"), host = handshake.host();
                rule(origin == null || origin.matches("https?://\\Q" + host + "\\E(:\\d+)?"), 403,
                        "a page of another host (§10.2)");
                return List.of();
            }, handler);
        }

        void serve(Welcome welcome, Handler handler) {
            owner = Thread.currentThread();
            number = COUNT.incrementAndGet();
            try {
                LIVE.add(this);
                open(welcome);
                handler.handle(this);
                close(1000, "");
                receive();                              // until our Close has its answer
            } catch (Refusal refusal) {
                fail(refusal, "");
            } catch (Throwable bug) {                   // or the peer has gone: an IOException
                if (!(bug instanceof EOFException)) log("" + bug);
                int code = state == State.CONNECTING ? 500 : 1011;
                if (state == State.OPEN || !(bug instanceof IOException))
                    fail(new Refusal(code, "the server has a problem (§7.4.1)"), "");
            } finally {
                hangUp();
                LIVE.remove(this);
            }
        }

        private void open(Welcome welcome) throws IOException, GeneralSecurityException {
            socket.setTcpNoDelay(true);
            if (settings.tls != null)                   // §4.2.2: TLS first; null: as its server
                channel = settings.tls.getSocketFactory().createSocket(socket, null, true);
            in = new DataInputStream(new BufferedInputStream(channel.getInputStream(), INPUT));
            out = channel.getOutputStream();
            Handshake handshake = Handshake.read(in, text ->
                    trace("in", () -> "the opening handshake (§4.1)" + indented(text)));
            path = handshake.path();
            protocol = handshake.choose(welcome.of(handshake));
            String extensions = agree(handshake.list("Sec-WebSocket-Extensions"));
            deflating = settings.deflate && extensions != null;
            synchronized (outbox) {                     // close() must not come in between
                answer(handshake.accept(protocol, deflating ? extensions : null));
                state = State.OPEN;
            }
        }

        private void answer(String text) throws IOException {
            trace("out", () -> "the answer (§4.2.2)" + indented(text));
            out.write(text.getBytes(UTF_8));
        }

        /// Waits for the next message, and answers pings and a Close meanwhile.
        /// @return null when the connection has ended: closeCode() tells how
        Message receive() throws Refusal {
            Header header = null;                       // while it is being read
            try {
                for (; state != State.CLOSED; header = null) {
                    outbox.await(settings.maxQueue / 2);
                    in.mark(10);                        // to show a header that is refused
                    header = Header.read(in, deflating, socket != null);
                    heard = System.nanoTime();
                    if (header.opcode >= CLOSE) control(header);
                    else if (data(header) instanceof Message whole && state == State.OPEN)
                        return whole;                   // but after our Close nothing counts: §1.4
                }
            } catch (Refusal refusal) {
                fail(refusal, header == null ? culprit("the culprit") : "");
                throw refusal;
            } catch (IOException lost) {
                trace("", () -> "the end, without a Close (§7.1.5)" + culprit("unfinished"));
                end(1000, "", State.CLOSED);            // he may still listen; closeCode() is 1006
            }
            return null;
        }

        private void control(Header header) throws IOException {
            int length = (int) header.length;
            byte[] payload = new byte[length];
            in.readFully(payload);
            Header.mask(header.key, 0, payload, 0, length);
            trace("in", () -> explain(header, payload, null));
            if (header.opcode == PING) {                // §5.5.2; a pong needs no answer (§5.5.3)
                outbox.await(PONG_BACKLOG);
                outbox.add(Header.encode(PONG, 0, payload), true);
            }
            if (header.opcode != CLOSE) return;
            rule(length != 1, 1002, "a Close has a code of two bytes or none (§5.5.1)");
            int code = length == 0 ? 1005 : ByteBuffer.wrap(payload).getChar();
            rule(length == 0 || isLegal(code), 1002, "a Close can't have this code (§7.4)");
            if (length > 2) checkText(payload, 2, length, true);
            if (length > 2) closeReason = new String(payload, 2, length - 2, UTF_8);
            end(closeCode = code, "", State.CLOSED);    // §5.5.1: the same; then TCP is closed
        }

        private Message data(Header header) throws IOException {
            boolean first = header.opcode != CONTINUATION;
            int start = gathered, most = settings.maxMessage;
            byte[] whole = null;
            try {
                rule(first || fragments > 0, 1002, "there is no message to continue (§5.4)");
                rule(!first || fragments == 0, 1002, "the message before has not ended (§5.4)");
                if (first) opcode = header.opcode;
                if (first) compressed = header.rsv != 0;
                if (compressed) most += most / 256 + 64;    // it can have become a little longer
                fragments++;
                rule(header.length <= most - gathered, 1009, "too long (§10.4)");
                rule(header.length > 0 || fragments <= MAX_FRAGMENTS, 1008,
                        "too many fragments (§10.4)");
                read(header.key, (int) header.length);
                if (header.fin) whole = whole();
            } finally {
                byte[] inflated = compressed ? whole : null;
                trace("in", () -> explain(header, Arrays.copyOfRange(message, start, gathered),
                        inflated));
            }
            if (whole == null) return null;
            message = new byte[0];
            gathered = checked = fragments = 0;
            return new Message(opcode == TEXT, whole);
        }

        /// Checks text while it comes. No length is trusted: the array grows with what has come.
        private void read(int key, int length) throws IOException {
            for (int done = 0, got; done < length; done += got) {
                int from = gathered, rest = length - done;
                if (from == message.length)
                    message = Arrays.copyOf(message, from + Math.min(rest, Math.max(from, 4096)));
                got = in.read(message, from, Math.min(rest, message.length - from));
                if (got < 0) throw new EOFException();
                heard = System.nanoTime();
                gathered += got;
                boolean ascii = Header.mask(key, done, message, from, gathered);
                if (opcode == TEXT && !compressed) checked = ascii && checked == from ? gathered
                        : checkText(message, checked, gathered, false);
            }
        }

        private byte[] whole() throws Refusal {
            byte[] all = gathered == message.length ? message : Arrays.copyOf(message, gathered);
            if (compressed) all = inflate(all, settings.maxMessage);
            if (opcode == TEXT && checked < all.length) checkText(all, checked, all.length, true);
            return all;
        }

        /// Sends a message, from any thread. Only the connection's own may have to wait for it.
        /// @return false if nothing can be sent any more
        boolean send(Message message) { return outbox.add(message.frame(deflating), true); }

        /// Sends a message, but never waits: for who holds a lock, or speaks to many.
        boolean post(Message message) { return outbox.add(message.frame(deflating), false); }

        void ping() { outbox.add(Header.encode(PING, 0, new byte[0]), true); }      // §5.5.2

        /// Begins to close (§7.1.2); receive() returns null when the peer has answered.
        void close(int code, String reason) {
            if (!isLegal(code)) throw new IllegalArgumentException("no close code: " + code);
            synchronized (outbox) { if (state == State.CONNECTING) cutOff(null); }     // §7.2.2
            end(code, reason, State.CLOSING);
        }

        /// Sends a Close, the reason cut between two characters to fit in 125 bytes (§5.5).
        private void end(int code, String reason, State next) {
            var payload = ByteBuffer.allocate(125);
            if (code != 1005) payload.putShort((short) code);       // which means none (§7.1.5)
            UTF_8.newEncoder().encode(CharBuffer.wrap(reason), payload, true);
            byte[] whole = Arrays.copyOf(payload.array(), payload.position());
            deadline = System.nanoTime() + seconds(CLOSE_TIME);
            outbox.add(Header.encode(CLOSE, 0, whole), true);
            synchronized (outbox) { if (state != State.CLOSED) state = next; }
        }

        State state() { return state; }
        String path() { return path; }              // of the request, still percent-encoded
        String protocol() { return protocol; }      // the subprotocol agreed on, or null
        String closeReason() { return closeReason; }
        int closeCode() { return closeCode; }       // §7.1.5: 1005: of none, 1006: without a Close

        /// The one place where a failure is answered. Nothing more of the peer is heard (§7.1.7).
        private void fail(Refusal refusal, String culprit) {
            if (state == State.CLOSED) return;
            String why = refusal.getMessage();
            log(refusal.code + " " + why);
            trace("", () -> "refused with " + refusal.code + ": " + why + culprit);
            try {
                if (state == State.CONNECTING)
                    answer(Handshake.refuse(refusal.code, why + ". " + settings.hint + "\n"));
            } catch (IOException gone) { }
            end(refusal.code, why, State.CLOSED);       // a Close goes out only if it was open
        }

        private void log(String what) { settings.log.accept("#" + number + " " + what); }

        private void trace(String direction, Supplier<String> what) {
            if (settings.trace == null) return;
            String whose = "%s #%-4d %-4s".formatted(now(), number, direction);
            settings.trace.accept(elide((socket == null ? "" : whose) + what.get(), 100));
        }

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
            } catch (IOException gone) { return ""; }
        }

        private boolean inputWaits() {
            try { return in.available() > 0; } catch (IOException gone) { return false; }
        }

        /// §7.1.1: we close our half first and read until the peer has closed his. Closing with
        /// unread input is a reset, and that can overtake the Close frame.
        private void hangUp() {
            synchronized (outbox) { state = State.CLOSED; }
            outbox.await(0);
            try (socket) {
                channel.shutdownOutput();
                in.skipNBytes(Long.MAX_VALUE);
            } catch (IOException | RuntimeException gone) { }       // or TLS failed: in is null
        }

        /// Ends the connection at once, without a Close: a reset, which drops what is unsent.
        /// @param why for the log, or null
        void cutOff(String why) {
            outbox.giveUp();
            try (socket) { socket.setSoLinger(true, 0); } catch (IOException closed) { }
            if (why != null) log(why);
        }

        /// One thread looks after all: deadlines in reads cost more, and don't see who never reads.
        private static void watch() {
            for (; ; LockSupport.parkNanos(seconds(1)))
                for (WebSocket one : LIVE)          // out of memory, say, is bad luck of this one
                    try { one.look(System.nanoTime()); } catch (Throwable bug) { one.cutOff(null); }
        }

        private void look(long now) throws IOException {
            boolean open = state == State.OPEN;         // if not, there is a deadline
            boolean stuck = outbox.unwritten > 0 && now - outbox.progress > seconds(2 * SILENCE);
            long silence = open ? now - heard : 0, late = open ? -1 : now - deadline;
            if (late > seconds(1) || stuck || silence > seconds(2 * SILENCE))
                cutOff("gave no sign of life");
            else if (late > 0) socket.shutdownInput();  // ends in order, as if the peer had gone
            else if (silence > seconds(SILENCE) && !pinged) ping();
            pinged = silence > seconds(SILENCE);
        }

        private static long seconds(int count) { return count * 1_000_000_000L; }
    }

    /// A connection to Redis, Valkey or what else speaks RESP2. A command is strings, each with its
    /// length in bytes in front: nothing in them can be mistaken for a command.
    static final class Resp {
        static final int ANSWER_TIME = 5_000;       // ms for an answer; later, the engine is away

        private final Socket socket = new Socket();
        private final DataInputStream in;
        private final OutputStream out;

        /// @param engine redis[s]://[user:password@]host[:port][/…]
        /// @throws IOException it can't be reached, or wants another password
        Resp(URI engine) throws IOException {
            String[] who = Objects.requireNonNullElse(engine.getUserInfo(), "").split(":", 2);
            String password = who.length > 1 ? who[1] : System.getenv("CHAT_REDIS_PASSWORD");
            int port = engine.getPort() < 0 ? 6379 : engine.getPort();
            Socket stream = socket;
            try {
                socket.connect(new InetSocketAddress(engine.getHost(), port), ANSWER_TIME);
                socket.setSoTimeout(ANSWER_TIME);
                socket.setTcpNoDelay(true);
                if (engine.getScheme().equals("rediss")) {
                    stream = ((SSLSocketFactory) SSLSocketFactory.getDefault())
                            .createSocket(socket, engine.getHost(), port, true);
                    var parameters = new SSLParameters();       // that verify the host's name
                    parameters.setEndpointIdentificationAlgorithm("HTTPS");
                    ((SSLSocket) stream).setSSLParameters(parameters);
                }
                in = new DataInputStream(new BufferedInputStream(stream.getInputStream()));
                out = stream.getOutputStream();
                send(password == null ? new String[] {"PING"} : Stream.of("AUTH", who[0], password)
                        .filter(word -> !word.isEmpty()).toArray(String[]::new));
                read();
            } catch (IOException | NumberFormatException wrong) {
                close();
                throw new IOException("can't use --redis at " + engine.getHost() + ": " + wrong);
            }
        }

        void send(String... words) {                // in one write each: they don't mix
            var text = new StringBuilder("*" + words.length + "\r\n");
            for (String word : words)
                text.append("$" + word.getBytes(UTF_8).length + "\r\n" + word + "\r\n");
            byte[] bytes = text.toString().getBytes(UTF_8);
            try { out.write(bytes); } catch (IOException lost) { close(); }
        }

        /// @return the strings and numbers of the answer
        /// @throws ProtocolException with the engine's words, if it refuses
        List<String> read() throws IOException {
            int type = in.readUnsignedByte(), next;
            var line = new StringBuilder();
            while ((next = in.readUnsignedByte()) != '\n') line.append((char) next);
            String value = line.toString().strip();
            if ("+:$*".indexOf(type) < 0) throw new ProtocolException(value);
            if (type == '+' || type == ':') return List.of(value);
            int size = Integer.parseInt(value);
            if (type == '$') return List.of(new String(in.readNBytes(size + 2), 0, size, UTF_8));
            var answer = new ArrayList<String>();
            while (size-- > 0) answer.addAll(read());
            return answer;
        }

        /// Only one thread may ask at a time, and not again after an IOException or a timeout.
        List<String> ask(String... words) throws Exception {
            boolean fits = String.join("", words).length() < 4096;     // in the socket's buffer
            Executor writer = fits ? Runnable::run : Thread::startVirtualThread;
            CompletableFuture.runAsync(() -> send(words), writer)
                    .get(ANSWER_TIME, TimeUnit.MILLISECONDS);       // a write has no time limit
            return read();
        }

        void close() { try { socket.close(); } catch (IOException closed) { } }
    }

    /// The same lines on several servers, through an engine: one connection asks, another hears
    /// what is published. While the engine is away, lines stay here.
    abstract static class Redis {
        static final int REFRESH = 15;              // seconds from one sign of life to the next
        static final int PING = 2;                  // seconds between PINGs to the second
        static final int MAX_UNSEEN = 10_000;       // lines under way; with more it is too slow

        final ReentrantLock asking = new ReentrantLock();           // held while a question is open
        private final URI engine;
        private final String prefix, server = UUID.randomUUID() + "-";
        private final Map<String, CompletableFuture<?>> topics = new ConcurrentHashMap<>();
        private final Map<String, Runnable> unseen = new LinkedHashMap<>();     // and the lock
        private final ScheduledExecutorService threads =
                Executors.newScheduledThreadPool(3, Thread.ofVirtual().factory());
        private volatile Resp asker, hearer;
        private volatile boolean carries = true;

        abstract void deliver(String topic, String line);           // one after the other
        abstract void reachable(boolean again);
        abstract void refresh();                                    // now and then

        /// @param engine as for Resp; its path begins all keys and topics
        Redis(URI engine) throws IOException {
            this.engine = engine;
            prefix = engine.getPath().replaceFirst("^/?$", "/chat").substring(1) + ":";
            try { connect(); } catch (Throwable away) { close(); throw away; }
            threads.submit(this::hear);
            threads.scheduleWithFixedDelay(this::refresh, REFRESH, REFRESH, TimeUnit.SECONDS);
            threads.scheduleWithFixedDelay(() -> { if (carries) hearer.send("PING"); }, 0, PING,
                    TimeUnit.SECONDS);
        }

        /// Returns when the engine takes what we say, and all topics are heard (again).
        private void connect() throws IOException {
            asker = new Resp(engine);
            hearer = new Resp(engine);
            for (String topic : topics.keySet()) hearer.send("SUBSCRIBE", prefix + topic);
            hearer.send("PING");
            while (!handle(hearer.read())) continue;
            refresh();
            if (ask("PUBLISH", "", "").isEmpty()) throw new IOException("no line may be published");
            synchronized (unseen) { if (!carries) reachable(carries = true); }
        }

        /// Hears until close(). Who loses the engine connects again, after a pause that doubles up
        /// to 13 s, or by chance a shorter one: not all servers at once.
        private void hear() {
            for (int losses = 0; !threads.isShutdown(); losses = Math.min(losses + 1, 7))
                try {
                    if (!carries) connect();
                    while (true) if (handle(hearer.read())) losses = 0;
                } catch (Throwable lost) {
                    cut();
                    synchronized (unseen) {
                        if (carries) reachable(carries = false);
                        unseen.values().forEach(Runnable::run);
                        unseen.clear();
                    }
                    topics.values().forEach(confirmed -> confirmed.complete(null));
                    LockSupport.parkNanos(ThreadLocalRandom.current().nextLong(PAUSE << losses));
                }
        }

        /// @return whether it is the answer to a PING
        private boolean handle(List<String> event) {
            String what = event.get(0), text = event.get(event.size() - 1);
            String topic = event.size() < 3 ? "" : event.get(1).substring(prefix.length());
            String id = text.substring(0, text.indexOf('\n') + 1);
            if (what.equals("subscribe"))
                topics.getOrDefault(topic, new CompletableFuture<>()).complete(null);
            if (what.equals("message")) synchronized (unseen) {
                if (!id.startsWith(server) || unseen.remove(id) != null)     // not given up
                    deliver(topic, text.substring(id.length()));
            }
            return what.equalsIgnoreCase("pong");
        }

        /// @return what the engine answers to a command, a key and so on; nothing if it can't
        List<String> ask(String... words) {
            words[1] = prefix + words[1];
            asking.lock();
            Resp engine = asker;
            try {
                return engine.ask(words);
            } catch (ProtocolException refused) {
                log("Redis: " + refused.getMessage());
            } catch (Throwable lost) {                          // no answer may be left unread
                if (engine == asker) cut();
            } finally { asking.unlock(); }
            return List.of();
        }

        /// Has a line delivered, here too: once, when it comes back, or when it can't any more.
        void publish(String topic, String line) {
            String id = server + ThreadLocalRandom.current().nextLong() + "\n";
            synchronized (unseen) {
                if (!carries) deliver(topic, line);
                else unseen.put(id, () -> deliver(topic, line));
                if (unseen.size() > MAX_UNSEEN) cut();
            }
            if (topics.putIfAbsent(topic, new CompletableFuture<>()) == null)
                hearer.send("SUBSCRIBE", prefix + topic);
            if (!carries) return;
            topics.get(topic).join();                           // else it would not come back
            if (ask("PUBLISH", topic, id + line).isEmpty()) cut();
        }

        /// After the last line of a topic.
        void unsubscribe(String topic) {
            topics.remove(topic);
            hearer.send("UNSUBSCRIBE", prefix + topic);
        }

        private void cut() {
            Stream.of(asker, hearer).filter(Objects::nonNull).forEach(Resp::close);
        }

        void close() {
            threads.shutdownNow();                              // wakes whoever waits
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
        static final String LETTER = "[\\p{L}\\p{M}\\p{N}_-]", JOINED = " has joined.";

        /// `"" + nick` is his nick. He hears what is said after the line that tells of his arrival.
        record Member(WebSocket webSocket, String room, AtomicReference<String> nick,
                AtomicBoolean arrived) { }

        private final Map<String, Set<Member>> rooms = new ConcurrentHashMap<>();
        private final Map<String, Member> arriving = new ConcurrentHashMap<>();   // by that line
        private final Map<String, WebSocket> nicks = new ConcurrentHashMap<>();
        private final Redis redis;                  // null: there is no other server

        Rooms(URI engine) throws IOException {
            redis = engine == null ? null : new Redis(engine) {
                @Override void deliver(String room, String line) { tell(room, line); }
                @Override void refresh() {
                    enlist("names", nicks::keySet);
                    for (String room : rooms.keySet()) enlist("who:" + room, () -> present(room));
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
        static String ofPath(String path) {
            if (path.equals("/") || path.equals("/chat")) return "lobby";
            try {
                String name = path.startsWith("/chat/") ? path.substring(6) : "";
                name = Normalizer.normalize(URLDecoder.decode(name, UTF_8), Normalizer.Form.NFC);
                return name.matches(LETTER + "{1,64}") ? name : null;
            } catch (IllegalArgumentException badEscape) {
                return null;
            }
        }

        boolean canHold(String room) { return rooms.size() < MAX_ROOMS || rooms.containsKey(room); }

        Member enter(WebSocket webSocket, String room) {
            String nick;
            do nick = "user-" + ThreadLocalRandom.current().nextInt(100_000);
            while (!claim(nick, webSocket));
            var member = new Member(webSocket, room, new AtomicReference<>(nick),
                    new AtomicBoolean());
            String arrival = " .... " + nick + JOINED;
            arriving.put(arrival, member);
            rooms.compute(room, (same, found) -> {
                Set<Member> all = found == null ? new LinkedHashSet<>() : found;
                synchronized (all) { all.add(member); }
                return all;
            });
            enlist("who:" + room, () -> List.of("" + member.nick));
            say(room, arrival);
            return member;
        }

        void leave(Member member) {
            member.arrived.set(false);                      // neither hears nor is seen
            if (rooms.get(member.room).size() <= CROWD)
                say(member.room, " .... " + member.nick + " has left.");
            rooms.computeIfPresent(member.room, (room, all) -> {
                synchronized (all) { all.remove(member); }
                if (all.isEmpty() && redis != null) redis.unsubscribe(room);
                return all.isEmpty() ? null : all;
            });
            ask("ZREM", "who:" + member.room, "" + member.nick);
            release("" + member.nick, member.webSocket);    // not before all know
        }

        private void say(String room, String line) {
            if (redis == null) tell(room, line);
            else redis.publish(room, line);
        }

        /// Everybody here gets a line, at the same place of one order; an arrival only who asked,
        /// and in a crowd only who arrives. An error with one member is his alone.
        private void tell(String room, String line) {
            var message = WebSocket.Message.text(line);
            boolean arrival = line.startsWith(" ") && line.endsWith(JOINED);    // said: "name: …"
            Member newcomer = arrival ? arriving.remove(line) : null;
            Set<Member> members = rooms.getOrDefault(room, Set.of());
            synchronized (members) {
                if (newcomer != null) newcomer.arrived.set(true);
                for (Member member : arrival && members.size() > CROWD
                        ? Stream.ofNullable(newcomer).toList() : members) {
                    WebSocket to = member.webSocket;
                    boolean told = member.arrived.get()
                            && (!arrival || PRESENCE.equals(to.protocol()));
                    try { if (told) to.post(message); } catch (Throwable bug) { to.cutOff(null); }
                }
            }
        }

        /// What somebody has typed: a line for all, or a command.
        void hear(Member member, String typed) {
            if (!typed.startsWith("/") || typed.startsWith("//")) {
                say(member.room, member.nick + ": " + typed.replaceFirst("^//", "/"));
                return;
            }
            String[] words = typed.strip().split("\\s+", 2);
            String answer = obey(member, words[0], words.length > 1 ? words[1] : "");
            if (answer != null) member.webSocket.send(WebSocket.Message.text(" .... " + answer));
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
            String old = member.nick.get();
            if (!nick.matches(LETTER + "{1,24}"))
                return "A name has 1 to 24 letters, digits, - or _.";
            if (!claim(nick, member.webSocket)) return "The name " + nick + " is taken.";
            member.nick.set(nick);
            ask("ZREM", "who:" + member.room, old);
            enlist("who:" + member.room, () -> List.of(nick));
            if (!key(old).equals(key(nick))) release(old, member.webSocket);
            say(member.room, " .... " + old + " is now " + nick + ".");
            return null;
        }

        /// Names that differ in case or form only are the same: nobody shall speak in another's.
        private static String key(String nick) {
            return Normalizer.normalize(nick, Normalizer.Form.NFKC).toLowerCase(Locale.ROOT);
        }

        /// @return whether the name is his now, on all servers
        private boolean claim(String nick, WebSocket owner) {
            WebSocket holder = nicks.get(key(nick));
            if (holder != null) return holder == owner;
            boolean taken = ask("ZADD", "names", "NX", expiry(), key(nick)).contains("0");
            ask("PEXPIRE", "names", "" + LIFE);             // should all servers die
            return !taken && nicks.putIfAbsent(key(nick), owner) == null;
        }

        private void release(String nick, WebSocket owner) {
            nicks.remove(key(nick), owner);
            ask("ZREM", "names", key(nick));
        }

        private List<String> ask(String... words) {
            return redis == null ? List.of() : redis.ask(words);
        }

        private static String expiry() { return "" + (System.currentTimeMillis() + LIFE); }

        /// Adds names to a set of all servers, sorted by when they will be forgotten.
        private void enlist(String set, Supplier<Collection<String>> names) {
            if (redis == null) return;
            redis.asking.lock();                // lest someone is named again who goes meanwhile
            try {
                var words = Stream.concat(Stream.of("ZADD", set), names.get().stream().flatMap(
                        name -> Stream.of(expiry(), name))).toArray(String[]::new);
                if (words.length > 2) ask(words);
                ask("ZREMRANGEBYSCORE", set, "-inf", "" + System.currentTimeMillis());
                ask("PEXPIRE", set, "" + LIFE);
            } finally { redis.asking.unlock(); }
        }

        private List<String> present(String room) {
            Set<Member> members = rooms.getOrDefault(room, Set.of());
            synchronized (members) {
                return members.stream().filter(member -> member.arrived.get())
                        .map(member -> "" + member.nick).toList();
            }
        }

        private String who(String room) {
            var all = new TreeSet<String>(present(room));
            all.addAll(ask("ZRANGE", "who:" + room, "0", "-1"));
            int more = all.size() - MAX_LISTED;
            return all.size() + " here: " + all.stream().limit(MAX_LISTED).collect(
                    Collectors.joining(", ")) + (more > 0 ? ", and " + more + " more" : "");
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
              --header 'NAME: VALUE', --subprotocol NAME: repeatable; --origin ORIGIN
            java Chat.java --explain [HEX ...]    explains frames, given here or on standard input
            java Chat.java --help | --version
            Fixed: handshake 10 s, 8 KiB, 100 headers; ping after 25 s of silence, gone after 50 s;
            closing 5 s; 10000 rooms; letters in the name of a room 64, of a person 24. Passwords:
            CHAT_KEYSTORE_PASSWORD, CHAT_REDIS_PASSWORD.""";
        static final int MAX_BYTES = 1 << 30;       // what one array and one option may hold

        enum Task { SERVE, CONNECT, EXPLAIN, HELP, VERSION }

        Task task = Task.SERVE;
        String host = "localhost", publicUrl;       // publicUrl: null if the page finds out
        int httpPort = 8080, wsPort = 12345, maxMessage = 1 << 20, maxQueue = 8 << 20;
        int maxConnections = 10_000, maxPerAddress = 100;
        long maxMemory = Runtime.getRuntime().maxMemory() / 4;
        boolean deflate = true, trace;
        SSLContext tls;
        URI redis, connect;
        final Set<Origin> origins = new LinkedHashSet<>();
        final List<String> headers = new ArrayList<>(), subprotocols = new ArrayList<>();
        private final Words words;

        /// @throws IllegalArgumentException with a sentence for whoever typed this
        Options(String... arguments) {
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
                case "--max-message" -> maxMessage = (int) words.number(1, MAX_BYTES);
                case "--max-queue" -> maxQueue = (int) words.number(1, MAX_BYTES);
                case "--max-memory" -> maxMemory = words.number(1, Long.MAX_VALUE);
                case "--max-connections" -> maxConnections = (int) words.number(1, 1 << 24);
                case "--max-per-address" -> maxPerAddress = (int) words.number(1, 1 << 24);
                case "--keystore" -> tls = keys(words.value());
                case "--redis" -> redis = redis(words.url("redis", "rediss"));
                case "--connect" -> {
                    task = Task.CONNECT;
                    connect = words.url("ws", "wss");
                }
                case "--header" -> headers.add(header(words.value()));
                case "--subprotocol" -> subprotocols.add(words.value());
                case "--no-deflate" -> deflate = false;
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
            boolean right = header.indexOf(':') > 0;
            for (char each : header.toCharArray()) right &= !Character.isISOControl(each);
            if (right) return header;
            throw words.wrong("can't be " + header);
        }

        private URI redis(URI url) {                            // its path stands in patterns
            boolean right = url.getRawQuery() == null;
            for (char each : url.getRawPath().toCharArray())
                right &= Origin.isPlain(each) || each == '/' || each == '_' || each == '~';
            if (right) return url;
            throw words.wrong("can't have this path: " + Words.shown(url.toString()));
        }

        /// The bytes for --explain: the words after it, or else what standard input holds.
        byte[] frames() {
            String hex = String.join("", words.isEmpty() ? new Scanner(System.in).tokens().toList()
                    : words.rest());
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

        boolean isEmpty() { return words.isEmpty(); }
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
            boolean right = digits.length() < 19;               // so it fits into a long
            for (char digit : digits.toCharArray()) right &= digit >= '0' && digit <= '9';
            if (right && Long.parseLong(digits) >= least && Long.parseLong(digits) <= most)
                return Long.parseLong(digits);
            throw wrong("is a number from " + least + " to " + most + ", not " + digits);
        }

        URI url(String... schemes) {
            String text = value();
            try {
                URI url = new URI(text);
                if (Arrays.asList(schemes).contains(url.getScheme()) && url.getHost() != null
                        && url.getPort() < 65536 && url.getRawFragment() == null) return url;
            } catch (URISyntaxException wrong) {
                // told below
            }
            throw wrong("can't be " + shown(text));
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
        private final Map<Thread, CompletableFuture<Void>> deadlines = new ConcurrentHashMap<>();

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
            limitThePage();
            List<InetAddress> addresses = addresses();
            bind(addresses, "--ws-port", options.wsPort, this::listenAt, this::closeListeners);
            bind(addresses, "--http-port", options.httpPort, this::openPage, this::dropPages);
            readyToWait();
        }

        void start() {
            pageServers.forEach(HttpServer::start);
            for (ServerSocket listener : listeners)
                Thread.ofPlatform().name("listen").start(() -> listen(listener));
        }

        void close() {
            for (ServerSocket listener : listeners)
                try { listener.close(); } catch (IOException closed) { }
            pageServers.forEach(server -> server.stop(0));
            pageThreads.shutdownNow();
        }

        /// The JDK's server takes its limits from system properties; who runs the program may have
        /// set others. Times are in seconds. There is no limit for one address.
        private static void limitThePage() {
            Map.of("sun.net.httpserver.maxReqTime", "10",        // until a request is complete
                    "sun.net.httpserver.idleInterval", "30",     // until the next one comes
                    "sun.net.httpserver.maxReqHeaderSize", "32768",     // bytes, with all cookies
                    "jdk.httpserver.maxConnections", "1000",
                    "sun.net.httpserver.nodelay", "true")        // or each answer waits 40 ms
                    .forEach(System.getProperties()::putIfAbsent);
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
            HttpServer server = options.tls == null ? HttpServer.create(address, 0, "/", page)
                    : HttpsServer.create(address, 0, "/", page);
            pageServers.add(server);
            if (server instanceof HttpsServer https)
                https.setHttpsConfigurator(new HttpsConfigurator(options.tls));
            server.setExecutor(request -> pageThreads.execute(() -> withinTime(request)));
            return server.getAddress().getPort();
        }

        /// Gives up servers that did not start. Only one that runs closes all that it has opened.
        private void dropPages() {
            pageServers.forEach(HttpServer::start);
            pageServers.forEach(server -> server.stop(0));
            pageServers.clear();
        }

        /// The first virtual thread that waits for bytes opens what all need for that. If there
        /// were no file descriptors then, none could ever wait. So it happens before anyone comes.
        private static void readyToWait() throws IOException {
            try (var listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
                listener.setSoTimeout(1);
                Thread.startVirtualThread(() -> {
                    try { listener.accept().close(); } catch (IOException nobody) { }
                }).join();
            } catch (InterruptedException stop) {
                throw new InterruptedIOException();
            }
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
            var deadline = new CompletableFuture<Void>();
            deadline.exceptionally(late -> {
                thread.interrupt();
                return null;
            });
            deadlines.put(thread, deadline.orTimeout(PAGE_TIME, TimeUnit.SECONDS));
            try {
                request.run();
            } finally {
                deadlines.remove(thread);
                deadline.complete(null);
            }
        }

        /// For a request whose answer has no end, as the wire's.
        void takeAnyTime() { deadlines.get(Thread.currentThread()).complete(null); }

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

    /// Where a page is from (RFC 6454), in the one form in which two can be compared. The port is
    /// empty if it is the usual one. `*` is any, `null` is what browsers say of pages in files.
    record Origin(String scheme, String host, String port) {
        static final int MAX_LENGTH = 300;          // characters: the longest DNS name has 253

        /// null if no browser and no app can have this origin.
        static Origin of(String text) {
            if (text.equals("*") || text.equals("null")) return new Origin(text, "", "");
            int end = text.indexOf("://");
            if (end < 1 || text.length() > MAX_LENGTH) return null;
            String scheme = text.substring(0, end).toLowerCase(Locale.ROOT);
            String rest = text.substring(end + 3);
            int colon = rest.lastIndexOf(':');
            boolean hasPort = colon > rest.lastIndexOf(']');
            String port = hasPort ? rest.substring(colon + 1) : "";
            String host = name(hasPort ? rest.substring(0, colon) : rest);
            boolean right = hasPort ? isPort(port) : true;
            if (!right || !isScheme(scheme) || !isHost(scheme, host)) return null;
            boolean usual = scheme.equals("http") && port.equals("80")
                    || scheme.equals("https") && port.equals("443");
            return new Origin(scheme, host, usual ? "" : port);
        }

        private static boolean isPort(String port) {
            boolean right = !port.isEmpty() && port.length() < 6 && !port.startsWith("0");
            for (char digit : port.toCharArray()) right &= digit >= '0' && digit <= '9';
            return right && Integer.parseInt(port) < 65536;
        }

        /// Apps and extensions of browsers have schemes of their own; these have no pages.
        private static boolean isScheme(String scheme) {
            boolean right = !List.of("ws", "wss", "ftp").contains(scheme);
            for (char each : scheme.toCharArray()) right &= isPlain(each) || each == '+';
            return right;
        }

        private static boolean isHost(String scheme, String host) {
            if (host.isEmpty()) return scheme.equals("file");
            boolean web = scheme.startsWith("http");
            String name = web && host.startsWith("*.") ? host.substring(2) : host;
            if (name.startsWith("[")) return name.endsWith("]");
            boolean right = !name.isEmpty() && !name.startsWith(".");
            for (char each : name.toCharArray()) right &= isPlain(each) || each == '_';
            return right;
        }

        static boolean isPlain(char each) {
            return each < 128 && Character.isLetterOrDigit(each) || each == '-' || each == '.';
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
                    && port.equals(other.port);
        }

        /// `*.example.com` is every name that ends so, and not example.com itself.
        boolean isOf(String name) {
            if (name.startsWith("*")) return false;             // which no browser says
            boolean within = host.startsWith("*.") && name.endsWith(host.substring(1));
            return scheme.equals("*") || within || host.equals(name);
        }

        /// Of a page, by HTTP; else -1.
        int portNumber() {
            if (!scheme.equals("http") && !scheme.equals("https")) return -1;
            if (!port.isEmpty()) return Integer.parseInt(port);
            return scheme.equals("http") ? 80 : 443;
        }

        /// Whether the host is a number, which no DNS can point elsewhere.
        boolean isAddress() {
            return host.startsWith("[") || Character.isDigit(host.charAt(host.length() - 1));
        }

        @Override
        public String toString() {
            if (host.isEmpty() && !scheme.equals("file")) return scheme;
            return scheme + "://" + host + (port.isEmpty() ? "" : ":" + port);
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
  * { box-sizing: border-box; margin: 0; padding: 0; }
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
  ul { position: relative; overflow: hidden auto; list-style: none; scrollbar-width: thin; }
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
  const [, time, connection, direction, title] = data.match(/^(\\S+) (\\S+) +(?:(in|out) +)?(.*)/);
  const route = { in: connection + ' → server', out: 'server → ' + connection }[direction];
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

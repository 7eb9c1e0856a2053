// Chat.java - a WebSocket chat in one file: JDK 21 or later and nothing else. Public domain.
//
//     java Chat.java                                    the page is at http://localhost:8080
//     java Chat.java --trace                            ... and every byte that travels, explained
//     java Chat.java --explain 818537fa213d7f9f4d5158   one frame, explained
//
// In the order in which the bytes travel:
//     Chat       listens, gives each connection a virtual thread, serves the page
//     WebSocket  bytes to messages and back. It knows nothing of the chat: cut out this one class,
//                with the imports, and you have a WebSocket library for your own script
//     Rooms      who is where, what a line means, who hears it
//     Options    the command line
//     PAGE       what the browser gets
// §5.4 is that section of RFC 6455 (www.rfc-editor.org/rfc/rfc6455), at the line that obeys it.

import com.sun.net.httpserver.*;
import java.io.*;
import java.lang.invoke.*;
import java.net.*;
import java.nio.*;
import java.nio.charset.*;
import java.nio.file.*;
import java.security.*;
import java.text.Normalizer;
import java.time.LocalTime;
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
///
/// In a program of your own: `try (var chat = new Chat(Chat.Options.parse()).start()) { … }`
public final class Chat implements AutoCloseable {
    static final String VERSION = "1.0";
    /// Connections taken beyond the limit, so that they can be told (503). More are hung up on.
    static final int WAITING_ROOM = 500;
    /// Nanoseconds to wait when the system has no file descriptor left for one more connection.
    static final long ACCEPT_PAUSE = 100_000_000;
    /// Nanoseconds in which clients may answer the Close when the server stops.
    static final long FAREWELL = 5_000_000_000L;
    /// Traced items waiting for one browser. While there are so many, newer ones are left out.
    static final int MAX_TRACED = 1000;

    private final Options options;
    private final Rooms rooms = new Rooms();
    private final HttpServer pageServer;
    private final ExecutorService pageThreads = Executors.newVirtualThreadPerTaskExecutor();
    private final ServerSocket listener = new ServerSocket();
    private final Set<WebSocket> connections = ConcurrentHashMap.newKeySet();
    private final Map<InetAddress, Integer> perAddress = new ConcurrentHashMap<>();
    private final Set<Queue<WebSocket.Traced>> watchers = ConcurrentHashMap.newKeySet();
    private WebSocket.Settings settings;

    public static void main(String[] arguments) {
        try {
            Options options = Options.parse(arguments);
            if (options.answer == null) {
                Chat chat = new Chat(options).start();
                Runtime.getRuntime().addShutdownHook(new Thread(chat::stop));
                options.answer = "Chat.java: open %s (WebSockets at %s)".formatted(
                        chat.address("http", chat.httpPort()), chat.address("ws", chat.webSocketPort()));
            }
            System.out.println(options.answer);
        } catch (IllegalArgumentException wrong) {
            System.err.println("Chat.java: " + wrong.getMessage() + "\n" + Options.USAGE);
            System.exit(2);
        } catch (IOException failure) {
            System.err.println("Chat.java: " + failure.getMessage());
            System.exit(1);
        }
    }

    /// Prepares a server; start() makes it listen.
    Chat(Options options) throws IOException {
        this.options = options;
        // Seconds in which a browser must have sent its request; the JDK's default is: for ever.
        System.getProperties().putIfAbsent("sun.net.httpserver.maxReqTime", "10");
        pageServer = options.tls == null ? HttpServer.create() : HttpsServer.create();
        if (pageServer instanceof HttpsServer https)
            https.setHttpsConfigurator(new HttpsConfigurator(options.tls));
    }

    /// Binds both ports and serves until close().
    /// @throws IOException a port or the address can't be had; the message says what to do
    Chat start() throws IOException {
        String port = "--http-port " + options.httpPort;
        try {
            var host = InetAddress.getByName(options.host);
            pageServer.bind(new InetSocketAddress(host, options.httpPort), 0);
            port = "--ws-port " + options.wsPort;
            listener.bind(new InetSocketAddress(host, options.wsPort), 4096);
        } catch (IOException taken) {
            close();
            throw new IOException("can't listen at --host " + options.host + " " + port + ": "
                    + taken.getMessage() + ". Choose another port, 0 for any");
        }
        settings = new WebSocket.Settings(options.maxMessage, options.maxQueue, options.deflate,
                options.tls, "The page is at " + address("http", httpPort()),
                options.trace ? this::trace : null, Chat::log);
        pageServer.setExecutor(pageThreads);
        pageServer.createContext("/", this::page);
        pageServer.start();
        Thread.ofPlatform().name("listen").start(this::listen);
        return this;
    }

    int httpPort() { return pageServer.getAddress().getPort(); }
    int webSocketPort() { return listener.getLocalPort(); }

    private String address(String scheme, int port) {
        return scheme + (options.tls == null ? "" : "s") + "://" + options.host + ":" + port + "/";
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
                log("can't accept a connection: " + failure);
                LockSupport.parkNanos(ACCEPT_PAUSE);
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
                if (echo) webSocket.send(message);
                else if (message.isText) rooms.hear(member, message);
                else webSocket.close(1003, "this chat is for text (§7.4.1)");
            }
        } finally {
            if (!echo) rooms.leave(member);
        }
    }

    /// Decides about a handshake that is right in itself.
    /// @return the subprotocols known at its path
    private List<String> welcome(WebSocket.Handshake handshake, boolean crowded) throws IOException {
        String host = handshake.host(), path = handshake.path(), room = Rooms.named(path);
        List<String> origins = handshake.values("Origin");        // none: it is not a browser
        boolean own = origins.size() == 1 && (origin(host).equalsIgnoreCase(origins.get(0))
                || options.origins.contains(origins.get(0)));
        WebSocket.rule(connections.size() <= options.maxConnections && !crowded, 503,
                "too many connections, try again later");
        WebSocket.rule(knows(host), 403, "this server has another name; --host or --origin add one");
        WebSocket.rule(own || origins.isEmpty() || options.origins.contains("*"), 403,
                "pages of another origin may not connect (§10.2); --origin ORIGIN allows it");
        WebSocket.rule(room != null || path.equals("/echo"), 404, "there is /, /echo, /chat and "
                + "/chat/NAME, the name of at most 64 letters, digits, - and _ (§4.2.2)");
        WebSocket.rule(room == null || rooms.canHold(room), 503, "too many rooms, try the lobby");
        return room == null ? List.of() : List.of(Rooms.PRESENCE);
    }

    /// The page's origin: scheme and port as they are here, the host as the client names it.
    private String origin(String host) {
        boolean usual = httpPort() == (options.tls == null ? 80 : 443);
        return (options.tls == null ? "http://" : "https://") + host + (usual ? "" : ":" + httpPort());
    }

    /// On the loopback address only its own names will do: any web page can let a name of its own
    /// point to 127.0.0.1, and would be "the same origin" as this server (DNS rebinding).
    private boolean knows(String host) {
        return host != null && (!listener.getInetAddress().isLoopbackAddress()
                || List.of("localhost", "127.0.0.1", "[::1]", options.host).contains(host)
                || options.origins.stream().anyMatch(o -> o.equals("*") || o.matches("https?://\\Q"
                        + host + "\\E(:\\d+)?")));
    }

    private void page(HttpExchange exchange) throws IOException {
        try (exchange) {
            String path = exchange.getRequestURI().getRawPath(), method = exchange.getRequestMethod();
            String given = String.valueOf(exchange.getRequestHeaders().getFirst("Host"));
            String host = WebSocket.Handshake.hostName(given);
            // The wire shows what everybody says, so it is only for who sits at this machine.
            boolean wire = options.trace && "/trace".equals(path)
                    && exchange.getRemoteAddress().getAddress().isLoopbackAddress();
            exchange.getResponseHeaders().set("Allow", "GET, HEAD");
            if (!knows(host)) answer(exchange, 403, "This server has another name.");
            else if (!wire && (path == null || Rooms.named(path) == null))
                answer(exchange, 404, "Nothing is here. " + settings.hint());
            else if (!method.equals("GET") && !method.equals("HEAD"))
                answer(exchange, 405, "Only GET and HEAD work here.");
            else if (wire) stream(exchange);
            else answer(exchange, 200, page(exchange, host, given));
        }
    }

    private String page(HttpExchange exchange, String host, String hostAndPort) {
        // Whoever came by another port came through a proxy, which makes both ports one.
        boolean direct = origin(host).endsWith("//" + hostAndPort);
        String nonce = UUID.randomUUID().toString(), port = direct ? "" + webSocketPort() : "";
        String socket = direct ? (options.tls == null ? "ws://" : "wss://") + host + ":" + port : "";
        exchange.getResponseHeaders().set("Content-Security-Policy", ("default-src 'none'; script-src "
                + "'nonce-%1$s'; style-src 'nonce-%1$s'; connect-src 'self' %2$s; img-src data:; "
                + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'").formatted(nonce, socket));
        return PAGE.replace("{{nonce}}", nonce).replace("{{port}}", port)
                .replace("{{trace}}", "" + options.trace);
    }

    private static void answer(HttpExchange exchange, int status, String body) throws IOException {
        byte[] bytes = body.getBytes(UTF_8);
        boolean head = exchange.getRequestMethod().equals("HEAD");
        Map.of("Content-Type", (status == 200 ? "text/html" : "text/plain") + "; charset=utf-8",
                "Content-Length", "" + bytes.length, "X-Content-Type-Options", "nosniff",
                "Referrer-Policy", "no-referrer", "Cache-Control", "no-store")
                .forEach(exchange.getResponseHeaders()::set);
        exchange.sendResponseHeaders(status, head ? -1 : bytes.length);
        if (!head) exchange.getResponseBody().write(bytes);
    }

    /// Tells a browser what is traced, as server-sent events, until one of them goes.
    private void stream(HttpExchange exchange) throws IOException {
        var queue = new ArrayBlockingQueue<WebSocket.Traced>(MAX_TRACED);
        exchange.getResponseHeaders().set("Content-Type", "text/event-stream; charset=utf-8");
        exchange.sendResponseHeaders(200, 0);
        watchers.add(queue);
        try (var out = exchange.getResponseBody()) {
            for (var item = queue.poll(); ; item = queue.poll(15, TimeUnit.SECONDS)) {
                String event = item == null ? ":" : "data: " + String.join("\ndata: ", item.rows());
                out.write((event + "\n\n").getBytes(UTF_8));
                out.flush();
            }
        } catch (InterruptedException closing) {
            // by close()
        } finally {
            watchers.remove(queue);
        }
    }

    private void trace(WebSocket.Traced item) {
        System.err.println(item);
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
                    .filter(t -> t.getName().matches("SIG.* handler")).count() < 2)
                LockSupport.parkNanos(ACCEPT_PAUSE);
            Runtime.getRuntime().halt(130);
        });
        close();
    }

    /// Stops: takes no more connections, sends everyone 1001 (§7.4.1) and gives them some seconds.
    /// When it returns, all threads, sockets and ports are free.
    @Override
    public void close() {
        try { listener.close(); } catch (IOException closed) { }
        pageServer.stop(0);
        pageThreads.shutdownNow();
        for (WebSocket webSocket : connections) webSocket.close(1001, "the server stops (§7.4.1)");
        for (long start = System.nanoTime(), gone; !connections.isEmpty(); LockSupport.parkNanos(1_000_000)) {
            gone = System.nanoTime() - start;
            if (gone > FAREWELL) connections.forEach(each -> each.cutOff(null));
            if (gone > 2 * FAREWELL) return;
        }
    }

    // ---------------------------------------------------------------------------------------------

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
    /// receive() throws the Refusal (failed). Whatever the handler throws ends this connection only.
    static final class WebSocket {
        /// Seconds for the opening handshake in all, TLS included, however the bytes trickle in.
        static final int HANDSHAKE_TIME = 10;
        /// Bytes of a request, and how many headers: what common servers take.
        static final int MAX_HEAD = 8 * 1024, MAX_HEADERS = 100;
        /// Seconds of silence until a ping; after twice as many the peer is gone. Proxies wait 60.
        static final int SILENCE = 25;
        /// Seconds between our Close and the end of TCP.
        static final int CLOSE_TIME = 5;
        /// Empty fragments of a message. Others cost their bytes, these would be free for ever.
        static final int MAX_EMPTY = 100_000;
        /// Bytes of an input buffer at rest, where most connections are; and at most.
        static final int SMALL_BUFFER = 512, BIG_BUFFER = 64 * 1024;
        /// Bytes of unwritten output with which a ping has to wait for its answer: a flood is free.
        static final int PONG_BACKLOG = 16 * 1024;
        /// Bytes from which on compressing a message pays.
        static final int DEFLATE_FROM = 1024;

        /// What holds for all connections of a server.
        /// @param maxMessage bytes of a message, before and after inflating; more is 1009
        /// @param maxQueue   bytes that may wait to be written; who lets more pile up is cut off
        /// @param tls        for wss, or null
        /// @param hint       a sentence for those who are refused
        /// @param trace      hears of all that travels, or null
        /// @param log        gets a line for each connection that fails
        record Settings(int maxMessage, int maxQueue, boolean deflate, SSLContext tls, String hint,
                        Consumer<Traced> trace, Consumer<String> log) {
            static final Settings DEFAULT =
                    new Settings(1 << 20, 8 << 20, true, null, "", null, line -> { });
        }

        /// A peer broke a rule, or is not wanted. The code is an HTTP status until the connection is
        /// open and a close code (§7.4) from then on. The message goes to the peer and into the log.
        static final class Refusal extends IOException {
            final int code;

            Refusal(int code, String message) {
                super(message);
                this.code = code;
            }
        }

        static void rule(boolean kept, int code, String message) throws Refusal {
            if (!kept) throw new Refusal(code, message);
        }

        /// Bytes that a stream has brought and nobody has read. The buffer grows with the traffic.
        private static final class Inbox {
            final InputStream stream;
            ByteBuffer unread = ByteBuffer.wrap(new byte[SMALL_BUFFER], 0, 0);
            volatile long heard = System.nanoTime();

            Inbox(InputStream stream) { this.stream = stream; }

            /// Waits until there are `count` unread bytes; EOFException if there never will be.
            void await(int count) throws IOException {
                while (unread.remaining() < count) {
                    makeRoom();
                    int end = unread.limit();
                    int got = stream.read(unread.array(), end, unread.capacity() - end);
                    if (got < 0) throw new EOFException("the peer has gone");
                    unread.limit(end + got);
                    heard = System.nanoTime();
                }
            }

            private void makeRoom() throws IOException {
                int size = unread.capacity(), left = unread.remaining();
                if (unread.limit() == size && size < BIG_BUFFER) size *= 2;  // the last read filled it
                else if (left == 0 && size > 8 * SMALL_BUFFER && stream.available() == 0)
                    size = SMALL_BUFFER;                                     // it may be a long wait
                byte[] old = unread.array(), array = size == old.length ? old : new byte[size];
                System.arraycopy(old, unread.position(), array, 0, left);
                unread = array == old ? unread.clear().limit(left) : ByteBuffer.wrap(array, 0, left);
            }

            int peek(int offset) { return unread.get(unread.position() + offset); }

            byte[] take(int count) {
                byte[] bytes = new byte[count];
                unread.get(bytes);
                return bytes;
            }
        }

        // ---- The opening handshake (§4.2) -----------------------------------------------------

        /// The request of a client, as text and in parts.
        record Handshake(String text, String method, String target, Map<String, List<String>> headers) {
            private static final String TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
            private static final Pattern REQUEST = Pattern.compile("(" + TOKEN
                    + ") (?:https?://[^/?#\\s]+)?([/?][!-~&&[^#]]*) HTTP/1\\.[1-9]");
            private static final Pattern HEADER = Pattern.compile("(" + TOKEN + "):([\t -~\\x80-\\xff]*)");
            private static final Pattern HOST = Pattern.compile(
                    "(\\[[0-9A-Fa-f:.]{2,45}]|[0-9A-Za-z._-]{1,253})(?::\\d{1,5})?");
            private static final Pattern EXTENSION = Pattern.compile(      // a quoted value is a token
                    "T(\\s*;\\s*T(\\s*=\\s*(T|\"T\"))?)*".replace("T", TOKEN));

            static Handshake read(Inbox in) throws IOException {
                int size = 0;
                for (int tail = 0; tail != 0x0d0a0d0a; tail = tail << 8 | in.peek(size++)) {
                    rule(size < MAX_HEAD, 431, "a request has at most " + MAX_HEAD + " bytes");
                    in.await(size + 1);
                    rule((in.peek(size) == '\n') == ((byte) tail == '\r'), 400, "lines end with CR LF");
                }
                String text = new String(in.take(size), ISO_8859_1);
                List<String> lines = text.lines().toList();
                Matcher request = REQUEST.matcher(lines.get(0));
                rule(request.matches(), 400, "this is not an HTTP/1.1 request (§4.2.1)");
                rule(lines.size() < MAX_HEADERS + 3, 431, "more than " + MAX_HEADERS + " headers");
                var headers = new TreeMap<String, List<String>>(String.CASE_INSENSITIVE_ORDER);
                for (String line : lines.subList(1, lines.size() - 1)) {
                    Matcher header = HEADER.matcher(line);           // no blank before the colon
                    rule(header.matches(), 400, "a header is not NAME: VALUE (§4.2.1)");
                    headers.computeIfAbsent(header.group(1), name -> new ArrayList<>())
                            .add(header.group(2).strip());
                }
                return new Handshake(text, request.group(1), request.group(2), headers);
            }

            /// The conditions of §4.2.1, in the order that gives the most helpful answer.
            void check() throws Refusal {
                String version = one("Sec-WebSocket-Version"), key = one("Sec-WebSocket-Key");
                rule(method.equals("GET"), 405, "a WebSocket begins with GET (§4.2.1)");
                rule(host() != null, 400, "one valid Host header is needed (§4.2.1)");
                rule(has("Upgrade", "websocket"), 426, "this port is for WebSockets only (§4.2.1)");
                rule(has("Connection", "upgrade"), 400, "Connection: Upgrade is missing (§4.2.1)");
                rule(key.matches("[A-Za-z0-9+/]{22}=="), 400, "one Sec-WebSocket-Key is needed, 16 "
                        + "bytes in base64 (§4.2.1)");
                rule(!version.isEmpty(), 400, "one Sec-WebSocket-Version is needed (§4.2.1)");
                rule(version.equals("13"), 426, "the only version is 13 (§4.4)");
            }

            /// Names of headers are the same in upper and lower case.
            List<String> values(String name) { return headers.getOrDefault(name, List.of()); }

            /// The value of a header that stands there once, else "".
            String one(String name) { return values(name).size() == 1 ? values(name).get(0) : ""; }

            /// The elements of a list, which may go over several headers.
            List<String> list(String name) {
                return Stream.of(String.join(",", values(name)).split(",")).map(String::strip)
                        .filter(element -> !element.isEmpty()).toList();
            }

            boolean has(String name, String token) {
                return list(name).stream().anyMatch(token::equalsIgnoreCase);
            }

            /// The path, still percent-encoded, without the query.
            String path() { return target.startsWith("?") ? "/" : target.split("\\?", 2)[0]; }

            /// The name by which the client calls this server, without the port; null for none.
            String host() { return hostName(one("Host")); }

            static String hostName(String hostAndPort) {
                Matcher host = HOST.matcher(hostAndPort);
                return host.matches() ? host.group(1).toLowerCase(Locale.ROOT) : null;
            }

            /// §4.2.2: the first subprotocol offered that is known here, or null.
            String choose(List<String> known) throws Refusal {
                List<String> offers = list("Sec-WebSocket-Protocol");
                rule(offers.stream().allMatch(o -> o.matches(TOKEN)), 400, "no such subprotocol (§11.3.4)");
                return offers.stream().filter(known::contains).findFirst().orElse(null);
            }

            /// §9.1: the extensions offered, each as its name and its parameters, NAME or NAME=VALUE.
            List<List<String>> extensions() throws Refusal {
                List<String> offers = list("Sec-WebSocket-Extensions");
                rule(offers.stream().allMatch(EXTENSION.asMatchPredicate()), 400,
                        "an extension is not NAME; PARAMETER=VALUE (§9.1)");
                return offers.stream().map(o -> List.of(o.replaceAll("[\\s\"]", "").split(";"))).toList();
            }

            /// §4.2.2: shows that the request was understood; it is no secret (§10.8).
            static String acceptKey(String key) throws NoSuchAlgorithmException {
                byte[] text = (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes(US_ASCII);
                return Base64.getEncoder().encodeToString(MessageDigest.getInstance("SHA-1").digest(text));
            }

            /// §4.2.2: the answer after which the connection is a WebSocket.
            String accept(String protocol, String extensions) throws NoSuchAlgorithmException {
                return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        + "Sec-WebSocket-Accept: " + acceptKey(one("Sec-WebSocket-Key")) + "\r\n"
                        + (protocol == null ? "" : "Sec-WebSocket-Protocol: " + protocol + "\r\n")
                        + (extensions == null ? "" : "Sec-WebSocket-Extensions: " + extensions + "\r\n")
                        + "\r\n";
            }

            private static final Map<Integer, String> STATUS = Map.of(400, "Bad Request",
                    403, "Forbidden", 404, "Not Found", 405, "Method Not Allowed\r\nAllow: GET", 426,
                    "Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",     // §4.4
                    431, "Request Header Fields Too Large", 503, "Service Unavailable");

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
        static final Map<Integer, String> OPCODES = Map.of(CONTINUATION, "CONTINUATION", TEXT, "TEXT",
                BINARY, "BINARY", CLOSE, "CLOSE", PING, "PING", PONG, "PONG");

        /// What stands before the payload.
        ///
        ///      0 1 2 3 4 5 6 7   0 1 2 3 4 5 6 7
        ///     +-+-+-+-+-------+ +-+-------------+ +----------------+ +----------------+
        ///     |F|R|R|R|opcode | |M| length      | | longer length: | | masking key:   |
        ///     |I|S|S|S|       | |A|  126: 2 more| | 2 or 8 bytes,  | | 4 bytes, if    |
        ///     |N|V|V|V|       | |S|  127: 8 more| | big-endian     | | MASK is 1      |
        ///     +-+1+2+3+-------+ +K+-------------+ +----------------+ +----------------+
        ///
        /// @param rsv the reserved bits: 0, or 4 for RSV1
        /// @param key the masking key, 0 if not masked
        record Header(boolean fin, int rsv, int opcode, boolean masked, int key, long length) {
            static final int FIN = 0x80, MASK = 0x80, RSV1 = 4, TWO_MORE = 126, EIGHT_MORE = 127;

            /// Reads a header and checks, as early as possible, all that it alone can break. Until it
            /// is right it stays unread, so that the culprit can be shown.
            /// @param deflate whether RSV1 has a meaning
            /// @param client  whether it comes from a client, which must mask
            static Header read(Inbox in, boolean deflate, boolean client) throws IOException {
                in.await(2);
                int first = in.peek(0), second = in.peek(1);
                int opcode = first & 0x0f, rsv = first >> 4 & 7, form = second & 0x7f;
                boolean fin = (first & FIN) != 0, masked = (second & MASK) != 0;
                rule(OPCODES.containsKey(opcode), 1002, "this opcode means nothing (§5.2)");
                rule(rsv == 0 || rsv == RSV1 && deflate, 1002, "a reserved bit is set (§5.2)");
                rule(rsv == 0 || opcode == TEXT || opcode == BINARY, 1002,
                        "RSV1 is for a message's first frame (RFC 7692 §6.1)");
                rule(masked || !client, 1002, "a client must mask its frames (§5.1)");
                rule(opcode < CLOSE || fin && form < TWO_MORE, 1002,
                        "a control frame is whole and has at most 125 bytes (§5.5)");
                int size = form == EIGHT_MORE ? 10 : form == TWO_MORE ? 4 : 2;
                in.await(size);
                ByteBuffer bytes = in.unread.slice();
                long length = size == 2 ? form : size == 4 ? bytes.getShort(2) & 0xffff : bytes.getLong(2);
                rule(length >= 0, 1002, "the highest bit of a length is 0 (§5.2)");
                rule(size == sizeFor(length), 1002, "a length has its shortest form (§5.2)");
                in.await(masked ? size + 4 : size);
                in.unread.position(in.unread.position() + size);
                return new Header(fin, rsv, opcode, masked, masked ? in.unread.getInt() : 0, length);
            }

            /// Bytes before the masking key, the length in its shortest form.
            static int sizeFor(long length) { return length < TWO_MORE ? 2 : length <= 0xffff ? 4 : 10; }
        }

        record Frame(Header header, byte[] payload) {
            private static final VarHandle LONG =
                    MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);

            /// A server's frame: whole, and not masked (§5.1).
            Frame(int opcode, int rsv, byte[] payload) {
                this(new Header(true, rsv, opcode, false, 0, payload.length), payload);
            }

            /// The frame as it is on the wire.
            byte[] encode() {
                int size = Header.sizeFor(header.length), mask = header.masked ? Header.MASK : 0;
                var wire = ByteBuffer.allocate(size + mask / 32 + payload.length);
                wire.put((byte) ((header.fin ? Header.FIN : 0) | header.rsv << 4 | header.opcode));
                if (size == 2) wire.put((byte) (mask | header.length));
                if (size == 4) wire.put((byte) (mask | Header.TWO_MORE)).putShort((short) header.length);
                if (size == 10) wire.put((byte) (mask | Header.EIGHT_MORE)).putLong(header.length);
                if (header.masked) wire.putInt(header.key);
                mask(payload, 0, header.key, 0, wire.array(), wire.position(), payload.length);
                return wire.array();
            }

            /// §5.3: byte i of a payload XOR byte i mod 4 of the key. Doing it twice undoes it.
            /// @param done bytes of this payload that came before
            /// @return whether the result is ASCII, and so UTF-8 without a further look
            static boolean mask(byte[] from, int at, int key, int done, byte[] to, int start, int count) {
                int turned = Integer.rotateLeft(key, 8 * done), i = 0;
                long twice = (long) turned << 32 | turned & 0xffffffffL, all = 0;
                for (; i + 8 <= count; i += 8) {
                    long eight = (long) LONG.get(from, at + i) ^ twice;
                    LONG.set(to, start + i, eight);
                    all |= eight;
                }
                for (; i < count; i++)
                    all |= to[start + i] = (byte) (from[at + i] ^ turned >>> 24 - 8 * (i & 3));
                return (all & 0x8080808080808080L) == 0;
            }
        }

        /// §7.4: whether a Close frame may carry this code.
        static boolean isLegal(int code) {
            return code >= 1000 && code < 1004 || code > 1006 && code < 1015
                    || code >= 3000 && code < 5000;
        }

        /// A Close's payload; the reason is cut between two characters to fit in 125 bytes (§5.5.1).
        private static byte[] closing(int code, String reason) {
            var payload = ByteBuffer.allocate(125).putShort((short) code);
            UTF_8.newEncoder().encode(CharBuffer.wrap(reason), payload, true);
            return Arrays.copyOf(payload.array(), payload.position());
        }

        // ---- Messages (§5.6) ------------------------------------------------------------------

        /// What programs exchange. It is encoded and compressed once, however many it is sent to.
        static final class Message {
            final boolean isText;
            final byte[] payload;
            private byte[] plain, compressed;

            /// @param payload of a text: UTF-8; that of a received message is sure to be
            Message(boolean isText, byte[] payload) {
                this.isText = isText;
                this.payload = payload;
            }

            static Message text(String text) { return new Message(true, text.getBytes(UTF_8)); }

            String text() { return new String(payload, UTF_8); }

            private synchronized byte[] frame(boolean deflate) {
                int opcode = isText ? TEXT : BINARY;
                if (plain == null) plain = new Frame(opcode, 0, payload).encode();
                if (!deflate || payload.length < DEFLATE_FROM) return plain;
                if (compressed == null) {
                    byte[] smaller = new Frame(opcode, Header.RSV1, Deflate.deflate(payload)).encode();
                    compressed = smaller.length < plain.length ? smaller : plain;
                }
                return compressed;
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
            rule(!result.isError(), 1007, "text must be UTF-8 (§8.1)");
            return rest.position();
        }

        /// permessage-deflate (RFC 7692). Nothing is remembered from one message to the next, so an
        /// idle connection needs no window, and one compressed message serves everybody.
        private static final class Deflate {
            /// Legal parameters. A window of less than 15 bits is what java.util.zip can't promise;
            /// the client's may have any size, reading copes with all of them (§7.1.2).
            private static final Pattern LEGAL = Pattern.compile("(client|server)_no_context_takeover"
                    + "|server_max_window_bits=15|client_max_window_bits(=([89]|1[0-5]))?");
            private static final byte[] TAIL = {0, 0, (byte) 0xff, (byte) 0xff};

            /// §7.1: the answer to the first offer that can be kept; null, so no compression, for none.
            static String agree(List<List<String>> offers) {
                for (List<String> offer : offers) {
                    List<String> given = offer.subList(1, offer.size());
                    long names = given.stream().map(g -> g.split("=")[0]).distinct().count();
                    if (offer.get(0).equals("permessage-deflate") && names == given.size()
                            && given.stream().allMatch(LEGAL.asMatchPredicate()))
                        return String.join("; ", "permessage-deflate", "server_no_context_takeover",
                                "client_no_context_takeover") + (given.contains(
                                "server_max_window_bits=15") ? "; server_max_window_bits=15" : "");
                }
                return null;
            }

            /// §7.2.1: deflate, flush, drop the four bytes with which a flush ends.
            static byte[] deflate(byte[] message) {
                var deflater = new Deflater(Deflater.BEST_SPEED, true);
                byte[] out = new byte[message.length + message.length / 256 + 64];    // always enough
                deflater.setInput(message);
                int size = deflater.deflate(out, 0, out.length, Deflater.SYNC_FLUSH);
                deflater.end();
                return Arrays.copyOf(out, size - TAIL.length);
            }

            /// §7.2.2: put the four bytes back and inflate, but not one byte beyond `limit`.
            static byte[] inflate(byte[] message, int limit) throws Refusal {
                rule(message.length > 0, 1002, "compressed data is never empty (RFC 7692 §7.2.1)");
                byte[] input = Arrays.copyOf(message, message.length + TAIL.length), chunk = new byte[8192];
                System.arraycopy(TAIL, 0, input, message.length, TAIL.length);
                var inflater = new Inflater(true);
                var out = new ByteArrayOutputStream(2 * input.length);
                try {
                    for (int rest = input.length; rest > 0; rest = inflater.getRemaining()) {
                        inflater.reset();               // a block with BFINAL, and more: §7.2.3.4
                        inflater.setInput(input, input.length - rest, rest);
                        for (int got; (got = inflater.inflate(chunk)) > 0; out.write(chunk, 0, got))
                            rule(out.size() + got <= limit, 1009, "inflated, this is too long (§10.4)");
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

        /// Frames on their way to one socket. Adding never waits: a virtual thread writes, which lives
        /// only while there is something to write and writes all that has piled up at once. A peer
        /// for whom too much piles up is cut off: to wait would hold up others, to leave a message
        /// out would be a lie.
        private final class Outbox implements Runnable {
            private List<byte[]> waiting;
            private boolean writing;
            private volatile boolean ended;
            private volatile long unwritten, writingSince;
            private volatile Thread sleeper;

            /// @param last whether nothing may follow, because it is a Close (§5.5.1)
            /// @return whether it will be sent
            boolean add(byte[] frame, boolean last) {
                boolean full, idle;
                synchronized (this) {
                    if (ended) return false;
                    idle = !writing;
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
                else if (idle && Thread.currentThread() == owner && !in.unread.hasRemaining()) run();
                else if (idle) Thread.startVirtualThread(this);
                return !full;
            }

            /// Writes until nothing is left.
            @Override
            public void run() {
                try {
                    int size = 0;
                    for (List<byte[]> batch; (batch = take(size)) != null; ) {
                        size = 0;
                        for (byte[] frame : batch) size += frame.length;
                        write(batch, batch.size() == 1 ? out
                                : new BufferedOutputStream(out, Math.min(size, BIG_BUFFER)));
                    }
                } catch (IOException lost) {
                    cutOff(null);
                }
            }

            synchronized void giveUp() {
                ended = true;
                unwritten = 0;
                LockSupport.unpark(sleeper);
            }

            private void write(List<byte[]> batch, OutputStream stream) throws IOException {
                writingSince = System.nanoTime();
                for (byte[] frame : batch) {
                    if (tracer != null) tracer.sent(frame);
                    stream.write(frame);
                }
                stream.flush();
                writingSince = 0;
            }

            /// @return what was added while `written` bytes were written; null if that is nothing
            private synchronized List<byte[]> take(int written) {
                unwritten -= written;
                LockSupport.unpark(sleeper);
                List<byte[]> batch = waiting;
                waiting = null;
                writing = batch != null;
                return batch;
            }

            /// Waits until at most `most` bytes are unwritten: a talker is slowed by what he hears.
            void await(long most) {
                if (unwritten <= most) return;
                sleeper = Thread.currentThread();
                while (unwritten > most) LockSupport.park(this);
                sleeper = null;
            }
        }

        // ---- What travels, explained ----------------------------------------------------------

        /// Something that travelled. The first row has time, connection, direction ("in", "out", or
        /// "" for what befell the connection) and title, each other one bytes, name and meaning.
        /// Tabs stand between them.
        record Traced(List<String> rows) {
            /// Only where a person looks, and does not mind.
            private static final boolean COLOUR = System.console() != null
                    && System.getenv("NO_COLOR") == null && !new File("/dev/stderr").isFile();

            /// For people, in 100 columns.
            @Override
            public String toString() {
                var text = new StringJoiner("\n");
                for (String row : rows) {
                    String[] parts = row.split("\t", -1);
                    if (parts.length == 4) text.add(colour(1, "%s %-5s %-4s%s".formatted((Object[]) parts)));
                    else if (parts[0].isEmpty()) text.add("    " + parts[1]);
                    else text.add("    " + colour(36, "%-23s".formatted(parts[0])) + "  %-25s %s".formatted(
                            parts[1], parts[2]).stripTrailing());
                }
                return text.toString();
            }

            private static String colour(int code, String text) {
                return COLOUR ? "\033[" + code + "m" + text + "\033[0m" : text;
            }
        }

        /// Explains the frames of one connection, one after another.
        private record Tracer(String connection, List<Frame> fragments, Consumer<Traced> sink) {
            void note(String direction, String title, String... rows) {
                var all = new ArrayList<>(List.of(String.join("\t", now(), connection, direction, title)));
                all.addAll(List.of(rows));
                sink.accept(new Traced(all));
            }

            void http(String direction, String title, String text) {
                note(direction, title, text.lines().filter(line -> !line.isEmpty())
                        .map(line -> "\t" + elide(printable(line), 96) + "\t").toArray(String[]::new));
            }

            void sent(byte[] wire) throws IOException {
                var in = new Inbox(new ByteArrayInputStream(wire));
                Header header = Header.read(in, true, false);
                frame("out", new ArrayList<>(), header, Arrays.copyOfRange(wire,
                        wire.length - (int) header.length, wire.length));
            }

            void received(Header header, byte[] payload) { frame("in", fragments, header, payload); }

            private void frame(String direction, List<Frame> message, Header header, byte[] payload) {
                byte[] wire = new Frame(header, payload).encode();
                int size = Header.sizeFor(header.length), start = wire.length - payload.length;
                if (header.opcode == TEXT || header.opcode == BINARY) message.clear();
                if (header.opcode < CLOSE) message.add(new Frame(header, payload));
                boolean deflated = header.opcode < CLOSE && message.get(0).header.rsv != 0;
                String bits = Integer.toBinaryString(8 | header.rsv).substring(1);
                var rows = new ArrayList<String>();
                rows.add(row(wire, 0, 1, "FIN=" + (header.fin ? 1 : 0) + " RSV=" + bits + " opcode="
                        + header.opcode, role(header, message)));
                rows.add(row(wire, 1, 2, "MASK=" + (header.masked ? 1 : 0) + " length=" + (wire[1] & 0x7f),
                        size == 2 ? "the length itself (§5.2)" : "so " + (size - 2) + " more bytes (§5.2)"));
                if (size > 2) rows.add(row(wire, 2, size, "length=" + header.length, "big-endian (§5.2)"));
                if (header.masked) rows.add(row(wire, size, start, "masking key", "a new one each time (§5.3)"));
                if (header.masked) rows.add(row(wire, start, wire.length, "payload, masked", ""));
                rows.add(row(payload, 0, payload.length, "payload", deflated ? "compressed (RFC 7692 §7.2)"
                        : meaning(header, payload)));
                if (deflated && header.fin) rows.add(inflated(message));
                note(direction, OPCODES.get(header.opcode) + " frame, " + header.length + " bytes",
                        rows.toArray(String[]::new));
            }

            /// Up to eight bytes; of more the first four and the last three.
            static String row(byte[] bytes, int from, int to, String name, String meaning) {
                HexFormat hex = HexFormat.ofDelimiter(" ");
                String shown = to - from <= 8 ? hex.formatHex(bytes, from, to)
                        : hex.formatHex(bytes, from, from + 4) + " … " + hex.formatHex(bytes, to - 3, to);
                return String.join("\t", from == to ? "-" : shown, name, meaning);
            }

            private static String role(Header header, List<Frame> message) {
                int count = message.size(), size = message.stream().mapToInt(f -> f.payload.length).sum();
                return OPCODES.get(header.opcode) + switch (header.opcode) {
                    case CLOSE -> " (§5.5.1)";
                    case PING -> ", wants a PONG (§5.5.2)";
                    case PONG -> " (§5.5.3)";
                    default -> !header.fin ? ", fragment " + count + ", " + size + " bytes so far (§5.4)"
                            : count > 1 ? ", the last of " + count + " fragments (§5.4)"
                            : ", a whole message (§5.6)";
                };
            }

            private static String meaning(Header header, byte[] payload) {
                int skip = header.opcode == CLOSE && payload.length > 1 ? 2 : 0;
                String text = new String(payload, skip, payload.length - skip, UTF_8);
                return (skip == 2 ? (ByteBuffer.wrap(payload).getShort() & 0xffff) + " " : "")
                        + (text.contains("\ufffd") ? payload.length + " bytes"
                        : '"' + elide(printable(text), 36) + '"') + (skip == 2 ? " (§7.4)" : "");
            }

            private static String inflated(List<Frame> message) {
                var bytes = new ByteArrayOutputStream();
                for (Frame fragment : message) bytes.writeBytes(fragment.payload);
                try {
                    byte[] whole = Deflate.inflate(bytes.toByteArray(), 1 << 24);
                    return row(whole, 0, whole.length, "inflated, " + whole.length + " bytes",
                            meaning(message.get(0).header, whole) + ", saves " + (whole.length - bytes.size()));
                } catch (Refusal broken) {
                    return "\t" + broken.getMessage() + "\t";
                }
            }
        }

        /// Explains frames of either direction, until one of them breaks a rule.
        static void explain(byte[] frames, Consumer<Traced> sink) {
            var webSocket = new WebSocket(null, new Settings(1 << 30, 1 << 30, true, null, "", traced -> {
                if (!traced.rows.get(0).contains("\tout\t")) sink.accept(traced);
            }, line -> { }));
            webSocket.in = new Inbox(new ByteArrayInputStream(frames));
            webSocket.out = OutputStream.nullOutputStream();
            webSocket.deflate = webSocket.upgraded = webSocket.eitherSide = true;
            try {
                while (webSocket.receive() != null) continue;
            } catch (Refusal shown) { }
        }

        static String elide(String text, int most) {
            return text.length() <= most ? text
                    : text.substring(0, most - 8) + " … " + text.substring(text.length() - 5);
        }

        /// For a terminal: what could break a line or steer it, like ESC, becomes a number.
        static String printable(String text) {
            return Pattern.compile("[\\p{C}\\p{Zl}\\p{Zp}]").matcher(text).replaceAll(
                    unsafe -> "\\\\u{%x}".formatted(unsafe.group().codePointAt(0)));
        }

        static String now() { return "%tT.%<tL".formatted(System.currentTimeMillis()); }

        // ---- The connection -------------------------------------------------------------------

        /// A browser calls it readyState.
        enum State { CONNECTING, OPEN, CLOSING, CLOSED }

        /// Decides about a handshake: refuses with an HTTP status, or names the subprotocols it knows.
        interface Welcome { List<String> of(Handshake handshake) throws IOException; }

        /// What is done with an open connection; afterwards it is closed.
        interface Handler { void handle(WebSocket webSocket) throws IOException; }

        private static final byte[] NOTHING = {};
        private static final AtomicLong COUNT = new AtomicLong();
        private static final Set<WebSocket> LIVE = ConcurrentHashMap.newKeySet();
        private static Thread watcher;
        private final String name = "#" + COUNT.incrementAndGet();
        private final Socket socket;
        private final Settings settings;
        private final Tracer tracer;
        private final Outbox outbox = new Outbox();
        private Socket stream;
        private Inbox in;
        private OutputStream out;
        private Thread owner;
        private String path, protocol, closeReason = "";
        private int closeCode = 1006;
        private boolean deflate, eitherSide, pinged;
        private volatile boolean upgraded, over;
        private volatile long deadline = seconds(HANDSHAKE_TIME) + System.nanoTime();
        // Of a message whose end has not come: its opcode (-1: there is none), its bytes, how many of
        // them are known to be text, how many of its fragments were empty.
        private int opcode = -1, gathered, checked, empty;
        private boolean compressed;
        private byte[] message = NOTHING;

        WebSocket(Socket socket, Settings settings) {
            this.socket = stream = socket;
            this.settings = settings;
            tracer = settings.trace == null ? null : new Tracer(name, new ArrayList<>(), settings.trace);
        }

        /// Serves one connection from its first byte to its last. Pages of other hosts may not
        /// connect: they would act in the name of whoever looks at them (§10.2).
        static void serve(Socket socket, Handler handler) {
            new WebSocket(socket, Settings.DEFAULT).serve(handshake -> {
                rule(handshake.values("Origin").stream().allMatch(origin -> origin.matches("https?://\\Q"
                        + handshake.host() + "\\E(:\\d+)?")), 403, "a page of another host (§10.2)");
                return List.of();
            }, handler);
        }

        void serve(Welcome welcome, Handler handler) {
            owner = Thread.currentThread();
            watch();
            try {
                open(welcome);
                handler.handle(this);
                close(1000, "");
                while (receive() != null) continue;     // until the Close has its answer
            } catch (Refusal refusal) {
                fail(refusal, NOTHING);
            } catch (Throwable bug) {
                if (!(bug instanceof EOFException)) settings.log.accept(name + " " + bug);
                if (upgraded) fail(new Refusal(1011, "the server has a problem (§7.4.1)"), NOTHING);
            } finally {
                hangUp();
            }
        }

        private void open(Welcome welcome) throws IOException, GeneralSecurityException {
            socket.setTcpNoDelay(true);
            if (settings.tls != null) {                 // §4.2.2: TLS comes before everything else
                stream = settings.tls.getSocketFactory().createSocket(socket, null, true);
                ((SSLSocket) stream).setEnabledProtocols(new String[] {"TLSv1.3", "TLSv1.2"});
            }
            in = new Inbox(stream.getInputStream());
            out = stream.getOutputStream();
            Handshake handshake = Handshake.read(in);
            if (tracer != null) tracer.http("in", "the opening handshake (§4.1)", handshake.text);
            handshake.check();
            path = handshake.path();
            protocol = handshake.choose(welcome.of(handshake));
            String extensions = Deflate.agree(handshake.extensions());
            deflate = settings.deflate && extensions != null;
            write("its answer (§4.2.2)", handshake.accept(protocol, deflate ? extensions : null));
            upgraded = true;
        }

        private void write(String title, String answer) throws IOException {
            if (tracer != null) tracer.http("out", title, answer);
            out.write(answer.getBytes(UTF_8));
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
                    header = Header.read(in, deflate, !eitherSide);
                    Message whole = header.opcode < CLOSE ? data(header) : control(header);
                    if (whole != null && !outbox.ended) return whole;   // after our Close: §1.4
                }
            } catch (Refusal refusal) {
                fail(refusal, header == null ? in.take(Math.min(8, in.unread.remaining())) : NOTHING);
                throw refusal;
            } catch (IOException lost) {
                over = true;
                if (tracer != null && (header != null || in.unread.hasRemaining()))
                    tracer.note("", "the connection ends inside a frame");
            }
            return null;
        }

        private Message control(Header header) throws IOException {
            int length = (int) header.length;
            in.await(length);
            byte[] payload = in.take(length);
            Frame.mask(payload, 0, header.key, 0, payload, 0, length);
            if (tracer != null) tracer.received(header, payload);
            if (header.opcode == CLOSE) closed(payload);
            if (header.opcode == PING) {                // §5.5.2; a pong needs no answer (§5.5.3)
                outbox.await(PONG_BACKLOG);
                outbox.add(new Frame(PONG, 0, payload).encode(), false);
            }
            return null;
        }

        /// §5.5.1: a Close is answered with one of the same code; then TCP is closed.
        private void closed(byte[] payload) throws Refusal {
            int length = payload.length;
            rule(length != 1, 1002, "a Close has a code of two bytes or none (§5.5.1)");
            int code = length == 0 ? 1005 : ByteBuffer.wrap(payload).getShort() & 0xffff;
            rule(length == 0 || isLegal(code), 1002, "a Close can't have this code (§7.4)");
            if (length > 2) checkText(payload, 2, length, true);
            closeCode = code;                                                               // §7.1.5
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
                rule(header.length <= settings.maxMessage - gathered, 1009, "the message is too long (§10.4)");
                rule(header.length > 0 || ++empty <= MAX_EMPTY, 1008, "too many empty fragments (§10.4)");
                if (first) opcode = header.opcode;
                if (first) compressed = header.rsv != 0;
                read(header.key, (int) header.length);
            } finally {
                if (tracer != null) tracer.received(header, Arrays.copyOfRange(message, start, gathered));
            }
            return header.fin ? finish() : null;
        }

        /// Reads a payload and checks text while it comes. No length is trusted: the array grows only
        /// with what has come.
        private void read(int key, int length) throws IOException {
            for (int done = 0, step; done < length; done += step) {
                in.await(1);
                step = Math.min(length - done, in.unread.remaining());
                int from = gathered, end = from + step, at = in.unread.position();
                if (end > message.length) message = Arrays.copyOf(message,
                        Math.min(from + length - done, done + step == length ? end : 2 * end));
                boolean ascii = Frame.mask(in.unread.array(), at, key, done, message, from, step);
                in.unread.position(at + step);
                gathered = end;
                if (opcode == TEXT && !compressed) checked = ascii && checked == from ? end
                        : checkText(message, checked, end, false);
            }
        }

        private Message finish() throws Refusal {
            byte[] payload = gathered == message.length ? message : Arrays.copyOf(message, gathered);
            if (compressed) payload = Deflate.inflate(payload, settings.maxMessage);
            boolean text = opcode == TEXT;
            if (text && checked < payload.length) checkText(payload, checked, payload.length, true);
            message = NOTHING;
            opcode = -1;
            gathered = checked = empty = 0;
            return new Message(text, payload);
        }

        /// Sends a message, from any thread, without waiting for the peer.
        /// @return false if nothing can be sent any more
        boolean send(Message message) { return upgraded && outbox.add(message.frame(deflate), false); }

        /// Asks for a sign of life (§5.5.2).
        void ping() { outbox.add(new Frame(PING, 0, NOTHING).encode(), false); }

        /// Begins to close (§7.1.2); receive() returns null when the peer has answered.
        /// @param reason of at most 123 bytes in UTF-8, what is more is cut off
        /// @throws IllegalArgumentException if no Close may carry this code
        void close(int code, String reason) {
            if (!isLegal(code)) throw new IllegalArgumentException(code + " is no close code (§7.4)");
            if (upgraded) end(closing(code, reason));
            else cutOff(null);                          // §7.2.2: no frame before it is open
        }

        private void end(byte[] payload) {
            deadline = seconds(CLOSE_TIME) + System.nanoTime();
            outbox.add(new Frame(CLOSE, 0, payload).encode(), true);
        }

        State state() {
            if (over) return State.CLOSED;
            return !upgraded ? State.CONNECTING : outbox.ended ? State.CLOSING : State.OPEN;
        }

        /// The path of the request, still percent-encoded.
        String path() { return path; }

        /// The subprotocol agreed on, or null.
        String protocol() { return protocol; }

        /// The code of the peer's Close; 1005 if it had none, 1006 if there was no Close (§7.1.5).
        int closeCode() { return closeCode; }

        String closeReason() { return closeReason; }

        /// The one place where a failure is answered. Nothing more of the peer is heard (§7.1.7).
        private void fail(Refusal refusal, byte[] culprit) {
            if (over) return;
            over = true;
            String why = refusal.getMessage();
            settings.log.accept(name + " " + refusal.code + " " + why);
            if (tracer != null) tracer.note("", "refused with " + refusal.code + ": " + why,
                    Tracer.row(culprit, 0, culprit.length, "the bytes that break it", ""));
            if (upgraded) end(closing(refusal.code, why));
            else try {
                deadline = seconds(CLOSE_TIME) + System.nanoTime();
                write("its answer", Handshake.refuse(refusal.code, why + ". " + settings.hint + "\n"));
            } catch (IOException gone) { }
        }

        /// §7.1.1: we close our half first and read until the peer has closed his. Closing with unread
        /// input is a reset, and that can overtake the Close frame.
        private void hangUp() {
            over = true;
            try {
                outbox.await(0);
                stream.shutdownOutput();
                while (in.stream.read(in.unread.array()) >= 0) continue;
            } catch (IOException | RuntimeException gone) { }
            LIVE.remove(this);
            try { socket.close(); } catch (IOException closed) { }
        }

        /// Ends the connection at once, without a Close: a reset, which leaves nothing unsent behind.
        void cutOff(String why) {
            if (why != null) settings.log.accept(name + " " + why);
            outbox.giveUp();
            try {
                socket.setSoLinger(true, 0);
                socket.close();
            } catch (IOException closed) { }
        }

        /// One virtual thread looks after all connections while there are any. A deadline in each read
        /// would cost more, and could not see who never reads.
        private void watch() {
            LIVE.add(this);
            synchronized (LIVE) {
                if (watcher == null) watcher = Thread.startVirtualThread(() -> {
                    for (; isNeeded(); LockSupport.parkNanos(seconds(1)))
                        for (WebSocket each : LIVE) each.look(System.nanoTime());
                });
            }
        }

        private static boolean isNeeded() {
            synchronized (LIVE) {
                if (LIVE.isEmpty()) watcher = null;
                return watcher != null;
            }
        }

        private void look(long now) {
            boolean ending = !upgraded || outbox.ended;
            long silence = ending ? 0 : now - in.heard, since = outbox.writingSince;
            boolean stuck = since != 0 && now - since > seconds(2 * SILENCE);
            if (ending ? now - deadline > 0 : stuck || silence > seconds(2 * SILENCE))
                cutOff("gave no sign of life");
            else if (silence > seconds(SILENCE) && !pinged) ping();
            pinged = silence > seconds(SILENCE);
        }

        private static long seconds(int count) { return count * 1_000_000_000L; }
    }

    // ---------------------------------------------------------------------------------------------

    /// Who is in which room, what a line means, who hears it.
    static final class Rooms {
        /// The subprotocol of those who are told of arrivals, too (§1.9).
        static final String PRESENCE = "presence";
        /// Members of a room above which nobody comes or goes with a word: N of them would cost N².
        static final int CROWD = 1000;
        /// Rooms at a time. A room needs memory, and names are free.
        static final int MAX_ROOMS = 10_000;
        /// Names in the answer to /who.
        static final int MAX_LISTED = 100;
        private static final Pattern ROOM = Pattern.compile("[\\p{L}\\p{M}\\p{N}_-]{1,64}");
        private static final Pattern NICK = Pattern.compile("[\\p{L}\\p{M}\\p{N}_-]{1,24}");

        /// Somebody in a room.
        static final class Member {
            private final WebSocket webSocket;
            private final String room;
            private volatile String nick;

            private Member(WebSocket webSocket, String room) {
                this.webSocket = webSocket;
                this.room = room;
            }
        }

        /// The lock gives all that is said here one order.
        private static final class Room {
            private final ReentrantLock lock = new ReentrantLock();
            private final Set<Member> members = new LinkedHashSet<>();
        }

        private final Map<String, Room> rooms = new ConcurrentHashMap<>();
        private final Map<String, Member> nicks = new ConcurrentHashMap<>();

        /// The room of a path: `/`, `/chat` and `/chat/lobby` are one, `/chat/NAME` is NAME.
        /// @return null if there can be no such room
        static String named(String path) {
            if (path.equals("/") || path.equals("/chat")) return "lobby";
            try {
                String name = path.startsWith("/chat/") ? URLDecoder.decode(path.substring(6), UTF_8) : "";
                name = Normalizer.normalize(name, Normalizer.Form.NFC);
                return ROOM.matcher(name).matches() ? name : null;
            } catch (IllegalArgumentException badEscape) {
                return null;
            }
        }

        private static WebSocket.Message notice(String line) {
            return WebSocket.Message.text(" .... " + line);
        }

        boolean canHold(String room) { return rooms.size() < MAX_ROOMS || rooms.containsKey(room); }

        Member enter(WebSocket webSocket, String name) {
            var member = new Member(webSocket, name);
            do member.nick = "user-" + ThreadLocalRandom.current().nextInt(100_000);
            while (nicks.putIfAbsent(key(member.nick), member) != null);
            var arrival = notice(member.nick + " has joined.");
            rooms.compute(name, (same, found) -> {
                Room room = found == null ? new Room() : found;
                room.lock.lock();
                room.members.add(member);
                boolean crowd = room.members.size() > CROWD;
                for (Member each : crowd ? Set.of(member) : room.members)
                    if (PRESENCE.equals(each.webSocket.protocol())) each.webSocket.send(arrival);
                room.lock.unlock();
                return room;
            });
            return member;
        }

        void leave(Member member) {
            nicks.remove(key(member.nick), member);
            rooms.computeIfPresent(member.room, (same, room) -> {
                room.lock.lock();
                boolean crowd = room.members.size() > CROWD;
                room.members.remove(member);
                if (!crowd) tell(room, notice(member.nick + " has left."));
                room.lock.unlock();
                return room.members.isEmpty() ? null : room;
            });
        }

        /// What somebody has typed: a line for all, or a command.
        void hear(Member member, WebSocket.Message typed) {
            byte[] line = typed.payload;
            int slashes = line.length == 0 || line[0] != '/' ? 0 : line.length == 1 || line[1] != '/' ? 1 : 2;
            if (slashes == 1) {
                String[] words = typed.text().strip().split("\\s+", 2);
                String answer = obey(member, words[0], words.length > 1 ? words[1] : "");
                if (answer != null) member.webSocket.send(notice(answer));
            } else {
                byte[] name = (member.nick + ": ").getBytes(UTF_8);     // bytes do: no need to decode
                int skip = slashes / 2, rest = line.length - skip;
                var said = ByteBuffer.allocate(name.length + rest).put(name).put(line, skip, rest);
                say(member.room, new WebSocket.Message(true, said.array()));
            }
        }

        /// The commands. One more is one more case.
        /// @return what only the asker is told, or null
        private String obey(Member member, String command, String rest) {
            return switch (command) {
                case "/nick" -> rename(member, Normalizer.normalize(rest, Normalizer.Form.NFC));
                case "/who" -> who(rooms.get(member.room));
                case "/help" -> "/nick NAME changes your name, /who lists who is here, /help is this. "
                        + "// at the start says a /.";
                default -> "There is no command " + WebSocket.elide(command, 40) + ". Try /help.";
            };
        }

        private String rename(Member member, String nick) {
            String old = member.nick;
            if (!NICK.matcher(nick).matches()) return "A name has 1 to 24 letters, digits, - or _.";
            Member holder = nicks.putIfAbsent(key(nick), member);
            if (holder != null && holder != member) return "The name " + nick + " is taken.";
            member.nick = nick;
            if (!key(old).equals(key(nick))) nicks.remove(key(old), member);
            say(member.room, notice(old + " is now " + nick + "."));
            return null;
        }

        /// Names that look alike are the same: nobody shall speak in another's.
        private static String key(String nick) {
            return Normalizer.normalize(nick, Normalizer.Form.NFKC).toLowerCase(Locale.ROOT);
        }

        private String who(Room room) {
            room.lock.lock();
            List<String> all = room.members.stream().map(member -> member.nick).sorted().toList();
            room.lock.unlock();
            int more = all.size() - MAX_LISTED;
            return all.size() + " here: " + String.join(", ", all.subList(0, all.size() - Math.max(0, more)))
                    + (more > 0 ? ", and " + more + " more" : "");
        }

        private void say(String name, WebSocket.Message line) {
            Room room = rooms.get(name);
            room.lock.lock();
            tell(room, line);
            room.lock.unlock();
        }

        private static void tell(Room room, WebSocket.Message line) {
            for (Member member : room.members) member.webSocket.send(line);
        }
    }

    // ---------------------------------------------------------------------------------------------

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
                  --no-deflate           compresses nothing
                  --trace                shows all that travels, here and in the page
                  --explain [HEX ...]    explains frames, given here or on standard input
                  --help, --version
                Fixed: handshake 10 s, its request 8 KiB and 100 headers; ping after 25 s of silence, gone
                after 50 s; closing 5 s; 10000 rooms; names of rooms 64, of people 24 characters.""";

        String host = "localhost", answer;
        int httpPort = 8080, wsPort = 12345, maxMessage = 1 << 20, maxQueue = 8 << 20;
        int maxConnections = 10_000, maxPerAddress = 100;
        boolean deflate = true, trace;
        SSLContext tls;
        final Set<String> origins = new HashSet<>();

        /// @throws IllegalArgumentException with a sentence for whoever typed this
        static Options parse(String... arguments) {
            var options = new Options();
            var words = new ArrayDeque<String>();
            for (String word : arguments)
                words.addAll(List.of(word.startsWith("--") ? word.split("=", 2) : new String[] {word}));
            while (!words.isEmpty()) options.set(words.pop(), words);
            return options;
        }

        private void set(String name, Deque<String> words) {
            switch (name) {
                case "--host" -> host = value(name, words);
                case "--http-port" -> httpPort = number(name, words, 0, 65535);
                case "--ws-port" -> wsPort = number(name, words, 0, 65535);
                case "--origin" -> origins.add(origin(value(name, words)));
                case "--max-message" -> maxMessage = number(name, words, 1, 1 << 30);
                case "--max-queue" -> maxQueue = number(name, words, 1, 1 << 30);
                case "--max-connections" -> maxConnections = number(name, words, 1, 1 << 24);
                case "--max-per-address" -> maxPerAddress = number(name, words, 1, 1 << 24);
                case "--keystore" -> tls = tls(value(name, words));
                case "--no-deflate" -> deflate = false;
                case "--trace" -> trace = true;
                case "--help" -> answer = USAGE;
                case "--version" -> answer = "Chat.java " + VERSION + ", Java " + Runtime.version();
                case "--explain" -> answer = explain(words);
                default -> throw new IllegalArgumentException("there is no option " + name);
            }
        }

        private static String value(String name, Deque<String> words) {
            if (words.isEmpty()) throw new IllegalArgumentException(name + " needs a value");
            return words.pop();
        }

        private static int number(String name, Deque<String> words, int least, int most) {
            String value = value(name, words);
            long number = value.matches("\\d{1,10}") ? Long.parseLong(value) : -1;
            if (number >= least && number <= most) return (int) number;
            throw new IllegalArgumentException("%s is a number from %d to %d, not %s".formatted(
                    name, least, most, value));
        }

        private static String origin(String value) {
            if (value.matches("\\*|https?://[^/\\s]+")) return value;
            throw new IllegalArgumentException("--origin is * or like https://chat.example, not " + value);
        }

        private static SSLContext tls(String file) {
            char[] password = System.getenv().getOrDefault("CHAT_KEYSTORE_PASSWORD", "").toCharArray();
            try {
                var keys = KeyManagerFactory.getInstance("PKIX");
                keys.init(KeyStore.getInstance(new File(file), password), password);
                var context = SSLContext.getInstance("TLS");
                context.init(keys.getKeyManagers(), null, null);
                return context;
            } catch (IOException | GeneralSecurityException wrong) {
                throw new IllegalArgumentException("--keystore " + file + ": " + wrong.getMessage()
                        + " (the password comes from CHAT_KEYSTORE_PASSWORD)");
            }
        }

        private static String explain(Deque<String> words) {
            var text = new StringJoiner("\n");
            try {
                String hex = String.join("", words);
                words.clear();
                if (hex.isBlank()) hex = new String(System.in.readAllBytes(), US_ASCII);
                byte[] frames = HexFormat.of().parseHex(hex.replaceAll("[\\s:,]|0x", ""));
                WebSocket.explain(frames, traced -> text.add(traced.toString()));
                return text.toString();
            } catch (IllegalArgumentException | IOException wrong) {
                throw new IllegalArgumentException("--explain takes bytes in hex, such as 81 00");
            }
        }
    }

    // ---------------------------------------------------------------------------------------------

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

            <header>
              <h1 id="room"></h1>
              <p id="status"><span id="state" role="status"></span><span id="people"></span></p>
              <button id="toggle" aria-controls="wire" hidden>wire</button>
            </header>
            <ul id="chat-echo-area" role="log" aria-label="messages" tabindex="0"></ul>
            <div id="say">
              <p id="hint" role="alert"></p>
              <input id="chat-input" placeholder="say something" aria-label="message" autocomplete="off"
                enterkeyhint="send" autofocus>
              <button id="send">Send</button>
              <button id="new" hidden></button>
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
              byId('people').textContent = people > 0 ? ` with ${people} people` : '';
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
              const [[time, connection, direction, title], ...fields] = data.split(LF).map(s => s.split(TAB));
              const route = { in: connection + ' → server', out: 'server → ' + connection }[direction];
              return create('li', '', `${time}  ${route ?? connection}  `, create('b', '', title, LF),
                ...fields.map(([hex, name, sense]) => {
                  const field = create('button', 'field', create('code', '', hex), name);
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

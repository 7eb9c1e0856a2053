// Chat.java - a WebSocket chat in one file: JDK 21 or later, nothing else. Public domain.
//
//     java Chat.java                      the page on http://localhost:8080, WebSockets on port 12345
//     java Chat.java --trace              the same, and every byte that travels, explained
//     java Chat.java --explain 818537fa213d7f9f4d5158      one frame, explained
//
// The file is in the order in which the bytes travel:
//     Chat       listens, gives each connection a virtual thread, serves the page
//     WebSocket  bytes to messages and back (RFC 6455, RFC 7692). It knows nothing of the chat:
//                cut out this one class, with the imports, and you have a WebSocket library
//     Rooms      who is where, what a line means, who hears it
//     Redis      carries the lines between several servers
//     Options    the command line
//     PAGE       what the browser shows
// A section number such as §5.4 is RFC 6455's and stands at the line that obeys it.

import com.sun.net.httpserver.*;
import java.io.*;
import java.lang.invoke.*;
import java.lang.reflect.Proxy;
import java.net.*;
import java.nio.*;
import java.nio.charset.*;
import java.nio.file.*;
import java.security.*;
import java.text.Normalizer;
import java.time.LocalTime;
import java.time.format.DateTimeFormatter;
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

/// The chat server: an HTTP port for the page, a port for WebSockets.
///
/// It can live in another program: `try (var chat = new Chat(Chat.Options.parse()).start()) { … }`
public final class Chat implements AutoCloseable {
    static final String VERSION = "1.0";
    /// Milliseconds between two tries to accept when the system has no file descriptor left.
    static final int ACCEPT_PAUSE = 100;
    /// Connections accepted beyond the limit: they are told so (503). Any further one is hung up on.
    static final int WAITING_ROOM = 500;
    /// Seconds that clients have to answer a Close when the server stops.
    static final int FAREWELL = 5;
    /// Traced frames waiting for one browser; what comes while it is full is left out there.
    static final int MAX_TRACED = 1000;

    private final Options options;
    private final Rooms rooms;
    private final SSLContext tls;
    private WebSocket.Settings settings;
    private final HttpServer pageServer;
    private final ExecutorService pageThreads = Executors.newVirtualThreadPerTaskExecutor();
    private final ServerSocket listener = new ServerSocket();
    private final Set<WebSocket> connections = ConcurrentHashMap.newKeySet();
    private final Map<InetAddress, Integer> perAddress = new ConcurrentHashMap<>();
    private final Set<BlockingQueue<WebSocket.Traced>> watchers = ConcurrentHashMap.newKeySet();

    public static void main(String[] arguments) throws IOException {
        try {
            Options options = Options.parse(arguments);
            if (options.answer() != null) {
                System.out.println(options.answer());
                return;
            }
            Chat chat = new Chat(options).start();
            stopOnSignal("INT", "TERM");
            Runtime.getRuntime().addShutdownHook(new Thread(chat::close));
            System.out.printf("Chat.java: open %s (WebSockets at %s)%n", chat.pageAddress(),
                    chat.webSocketAddress());
        } catch (IllegalArgumentException wrong) {
            System.err.println("Chat.java: " + wrong.getMessage() + "\n" + Options.USAGE);
            System.exit(2);
        } catch (IOException failure) {
            System.err.println("Chat.java: " + failure.getMessage());
            System.exit(1);
        }
    }

    /// The first signal stops in good order (exit code 128 + its number), a second one at once.
    /// sun.misc.Signal is supported (JEP 260), but only reflection gets it past javac -Werror.
    private static void stopOnSignal(String... names) {
        var stopping = new AtomicBoolean();
        try {
            Class<?> signal = Class.forName("sun.misc.Signal");
            Class<?> type = Class.forName("sun.misc.SignalHandler");
            Object handler = Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type},
                    (proxy, method, given) -> {
                int status = 128 + (int) signal.getMethod("getNumber").invoke(given[0]);
                if (stopping.getAndSet(true)) Runtime.getRuntime().halt(status);
                new Thread(() -> System.exit(status)).start();
                return null;
            });
            for (String name : names)
                signal.getMethod("handle", signal, type).invoke(null,
                        signal.getConstructor(String.class).newInstance(name), handler);
        } catch (ReflectiveOperationException absent) {
            // then the JVM's own handling stays: the same, but for the second signal
        }
    }

    /// Prepares a server; nothing listens before start().
    /// @throws IOException a port is taken, the keystore or the Redis server can't be used
    Chat(Options options) throws IOException {
        this.options = options;
        tls = options.tls();
        // Seconds in which a browser has to send its request for the page; by default, for ever.
        if (System.getProperty("sun.net.httpserver.maxReqTime") == null)
            System.setProperty("sun.net.httpserver.maxReqTime", "10");
        pageServer = tls == null ? HttpServer.create() : HttpsServer.create();
        if (pageServer instanceof HttpsServer https)
            https.setHttpsConfigurator(new HttpsConfigurator(tls));
        rooms = new Rooms();
    }

    /// Binds both ports and serves until close().
    Chat start() throws IOException {
        bind(address -> pageServer.bind(address, 0), options.httpPort(), "--http-port");
        bind(address -> listener.bind(address, 4096), options.wsPort(), "--ws-port");
        settings = new WebSocket.Settings(options.maxMessage(), options.maxQueue(), options.deflate(),
                tls, "The page is at " + pageAddress(), options.trace() ? this::trace : null, Chat::log);
        if (!options.redis().isEmpty()) rooms.share(options.redis());
        pageServer.setExecutor(pageThreads);
        pageServer.createContext("/", this::page);
        pageServer.start();
        Thread.ofPlatform().name("listen").start(this::listen);
        if (!options.isLoopback() && (tls == null || options.origins().contains("*")))
            log("anyone who reaches " + options.host() + " can read along: see README, Security");
        return this;
    }

    private interface Binding { void to(InetSocketAddress address) throws IOException; }

    private void bind(Binding binding, int port, String option) throws IOException {
        try {
            binding.to(new InetSocketAddress(InetAddress.getByName(options.host()), port));
        } catch (BindException taken) {
            close();
            throw new IOException("port " + port + " of " + options.host() + " can't be had ("
                    + taken.getMessage() + "): choose another with " + option + ", 0 for any");
        } catch (UnknownHostException unknown) {
            close();
            throw new IOException("--host " + options.host() + " is not an address of this machine");
        }
    }

    int httpPort() { return pageServer.getAddress().getPort(); }
    int webSocketPort() { return listener.getLocalPort(); }
    String pageAddress() { return address("http", httpPort()); }
    String webSocketAddress() { return address("ws", webSocketPort()); }

    private String address(String scheme, int port) {
        return scheme + (tls == null ? "" : "s") + "://" + options.host() + ":" + port + "/";
    }

    /// Each connection is a virtual thread: it may block, it costs next to nothing while it waits.
    private void listen() {
        while (!listener.isClosed()) {
            try {
                Socket socket = listener.accept();
                if (connections.size() < options.maxConnections() + WAITING_ROOM)
                    Thread.startVirtualThread(() -> serve(socket));
                else socket.close();
            } catch (IOException | OutOfMemoryError failure) {
                if (listener.isClosed()) return;
                log("can't accept: " + failure);
                LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(ACCEPT_PAUSE));
            }
        }
    }

    private void serve(Socket socket) {
        var webSocket = new WebSocket(socket, settings);
        connections.add(webSocket);
        int neighbours = perAddress.merge(socket.getInetAddress(), 1, Integer::sum);
        try {
            webSocket.serve(handshake -> welcome(handshake, socket, neighbours), this::converse);
        } finally {
            connections.remove(webSocket);
            perAddress.compute(socket.getInetAddress(), (a, count) -> count == 1 ? null : count - 1);
        }
    }

    /// The life of a connection: enter, receive until there is nothing more to receive, leave.
    private void converse(WebSocket webSocket) throws IOException {
        if (webSocket.path().equals("/echo")) {
            while (webSocket.receive() instanceof WebSocket.Message message) webSocket.send(message);
            return;
        }
        Rooms.Member member = rooms.enter(webSocket, Rooms.named(webSocket.path()));
        try {
            while (webSocket.receive() instanceof WebSocket.Message message) {
                switch (message) {
                    case WebSocket.Text text -> rooms.hear(member, text);
                    case WebSocket.Binary ignored -> webSocket.close(1003, "only text here (§7.4.1)");
                }
            }
        } finally {
            rooms.leave(member);
        }
    }

    /// Decides about a correct handshake, before it is answered.
    /// @return the subprotocols known at its path
    private List<String> welcome(WebSocket.Handshake handshake, Socket socket, int neighbours)
            throws WebSocket.Refusal {
        if (connections.size() > options.maxConnections()
                || neighbours > options.maxPerAddress() && !socket.getInetAddress().isLoopbackAddress())
            throw new WebSocket.Refusal(503, "too many connections, try again later");
        if (!knows(handshake.host()))
            throw new WebSocket.Refusal(403, "this server does not answer to the name "
                    + handshake.host() + "; --origin or --host tell it to");
        List<String> origins = handshake.values("Origin");
        String own = origin(handshake.host());
        if (!origins.isEmpty() && !options.origins().contains("*") && (origins.size() > 1
                || !own.equalsIgnoreCase(origins.get(0)) && !options.origins().contains(origins.get(0))))
            throw new WebSocket.Refusal(403, "a page of another origin may not connect (§10.2). "
                    + "This server's is " + own + "; --origin allows others");
        if (handshake.path().equals("/echo")) return List.of();
        String room = Rooms.named(handshake.path());
        if (room == null) throw new WebSocket.Refusal(404, "no such room: the paths are /, /chat, "
                + "/chat/NAME (letters, digits, - and _, at most 64) and /echo (§4.2.2)");
        if (rooms.areFull(room)) throw new WebSocket.Refusal(503, "no more rooms, try the lobby");
        return List.of(Rooms.PRESENCE);
    }

    /// The page's own origin: scheme and port as bound, the host as the client named it (§10.2).
    private String origin(String host) {
        boolean usual = httpPort() == (tls == null ? 80 : 443);
        return (tls == null ? "http://" : "https://") + host + (usual ? "" : ":" + httpPort());
    }

    /// On loopback only loopback's names will do. Otherwise any web page could call its own name
    /// 127.0.0.1 and be "the same origin" as this server (DNS rebinding).
    private boolean knows(String host) {
        return host != null && (!options.isLoopback() || options.origins().contains("*")
                || List.of("localhost", "127.0.0.1", "[::1]", options.host()).contains(host)
                || options.origins().stream().anyMatch(o -> host.equals(URI.create(o).getHost())));
    }

    private void page(HttpExchange exchange) throws IOException {
        try (exchange) {
            String path = exchange.getRequestURI().getRawPath();
            String method = exchange.getRequestMethod();
            List<String> hosts = exchange.getRequestHeaders().getOrDefault("Host", List.of());
            String host = hosts.size() == 1 ? WebSocket.Handshake.hostName(hosts.get(0)) : null;
            if (!knows(host)) answer(exchange, 403, "This server does not answer to that name.");
            else if (path == null || Rooms.named(path) == null && !isTrace(exchange, path))
                answer(exchange, 404, "There is no such page. The chat is at " + pageAddress());
            else if (!method.equals("GET") && !method.equals("HEAD")) {
                exchange.getResponseHeaders().set("Allow", "GET, HEAD");
                answer(exchange, 405, "Only GET and HEAD work here.");
            } else if (isTrace(exchange, path)) stream(exchange);
            else answer(exchange, 200, page(exchange, host, hosts.get(0)));
        }
    }

    private String page(HttpExchange exchange, String host, String hostAndPort) {
        // A page that came by another port came through a proxy that makes both ports one.
        boolean direct = origin(host).endsWith("//" + hostAndPort);
        String socket = tls == null ? "ws" : "wss";
        String nonce = UUID.randomUUID().toString();
        exchange.getResponseHeaders().set("Content-Security-Policy", ("default-src 'none'; "
                + "script-src 'nonce-%1$s'; style-src 'nonce-%1$s'; connect-src 'self'%2$s; "
                + "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
                .formatted(nonce, direct ? " %s://%s:%d".formatted(socket, host, webSocketPort()) : ""));
        return PAGE.replace("{{nonce}}", nonce).replace("{{trace}}", "" + options.trace())
                .replace("{{port}}", direct ? "" + webSocketPort() : "");
    }

    private static void answer(HttpExchange exchange, int status, String body) throws IOException {
        byte[] bytes = body.getBytes(UTF_8);
        Headers headers = exchange.getResponseHeaders();
        headers.set("Content-Type", "text/" + (status == 200 ? "html" : "plain") + "; charset=utf-8");
        headers.set("X-Content-Type-Options", "nosniff");
        headers.set("Referrer-Policy", "no-referrer");
        headers.set("Cache-Control", "no-store");
        headers.set("Content-Length", "" + bytes.length);
        boolean head = exchange.getRequestMethod().equals("HEAD");
        exchange.sendResponseHeaders(status, head ? -1 : bytes.length);
        if (!head) exchange.getResponseBody().write(bytes);
    }

    /// The wire shows what everybody says, so it is for the person at this machine only.
    private boolean isTrace(HttpExchange exchange, String path) {
        return options.trace() && path.equals("/trace")
                && exchange.getRemoteAddress().getAddress().isLoopbackAddress();
    }

    /// Sends what is traced to a browser, as server-sent events, until it goes.
    private void stream(HttpExchange exchange) throws IOException {
        var queue = new ArrayBlockingQueue<WebSocket.Traced>(MAX_TRACED);
        watchers.add(queue);
        exchange.getResponseHeaders().set("Content-Type", "text/event-stream; charset=utf-8");
        exchange.getResponseHeaders().set("Cache-Control", "no-store");
        exchange.sendResponseHeaders(200, 0);
        try (var out = exchange.getResponseBody()) {
            while (true) {
                WebSocket.Traced traced = queue.poll(15, TimeUnit.SECONDS);
                out.write((traced == null ? ":\n\n" : traced.rows().stream()
                        .map(row -> "data: " + row + "\n").collect(Collectors.joining("", "", "\n")))
                        .getBytes(UTF_8));
                out.flush();
            }
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        } finally {
            watchers.remove(queue);
        }
    }

    private void trace(WebSocket.Traced traced) {
        System.err.println(traced);
        for (var queue : watchers) queue.offer(traced);
    }

    /// One line to the terminal. What clients sent is escaped: it can't forge a line or a colour.
    static void log(String line) {
        System.err.println(WebSocket.now() + " " + WebSocket.printable(line));
    }

    /// Stops: no new connections, 1001 to everyone (§7.4.1), some seconds for their answers.
    /// Threads, sockets and ports are free when it returns.
    @Override
    public void close() {
        try {
            listener.close();
        } catch (IOException alreadyClosed) {
            // what was asked for
        }
        pageServer.stop(0);
        pageThreads.shutdownNow();
        for (var webSocket : connections) webSocket.close(1001, "the server is stopping (§7.4.1)");
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(FAREWELL);
        while (!connections.isEmpty() && System.nanoTime() < deadline + 1_000_000_000L) {
            if (System.nanoTime() > deadline) connections.forEach(WebSocket::cutOff);
            LockSupport.parkNanos(1_000_000);
        }
        rooms.close();
    }

    // ---------------------------------------------------------------------------------------------

    /// One WebSocket connection, seen from the server: RFC 6455 with permessage-deflate (RFC 7692).
    ///
    ///     WebSocket.serve(socket, webSocket -> {                                    // opened
    ///         while (webSocket.receive() instanceof WebSocket.Message message)      // a message
    ///             webSocket.send(message);
    ///         System.out.println(webSocket.closeCode());                            // closed
    ///     });
    ///
    /// The thread that calls serve() reads; run it in a virtual thread of its own. Any thread may
    /// send, ping and close; none of that waits for the peer. A peer that breaks a rule is told
    /// which, then receive() throws the Refusal (the fourth moment: failed).
    static final class WebSocket {
        /// Seconds from the TCP connection to the end of the opening handshake, TLS included.
        static final int HANDSHAKE_TIME = 10;
        /// Seconds from our Close to the end of TCP, whatever the peer does.
        static final int CLOSE_TIME = 5;
        /// Seconds of silence before a ping; after twice as many the peer counts as gone. Proxies
        /// commonly cut a connection that is silent for 60.
        static final int SILENCE = 25;
        /// Bytes of the HTTP request, and its number of headers: what common servers allow.
        static final int MAX_HEAD = 8 * 1024, MAX_HEADERS = 100;
        /// Empty fragments in a message. Others cost their bytes, these would be free for ever.
        static final int MAX_EMPTY = 100_000;
        /// Bytes of an input buffer at rest, and at most. Most connections rest most of the time.
        static final int SMALL_BUFFER = 512, BIG_BUFFER = 64 * 1024;
        /// Bytes that one system call writes when many frames wait.
        static final int BATCH = 64 * 1024;
        /// Bytes of waiting output from which only the newest of several pings is answered.
        static final int PONG_BACKLOG = 16 * 1024;
        /// Bytes from which a message is worth compressing.
        static final int DEFLATE_FROM = 1024;

        /// What is allowed, the same for all connections of a server.
        /// @param maxMessage bytes of a message, before and after inflating; more is 1009
        /// @param maxQueue   bytes waiting to be written; with more the peer is cut off
        /// @param deflate    whether permessage-deflate is agreed to
        /// @param tls        makes it wss, null for ws
        /// @param hint       a sentence for those who come without a WebSocket
        /// @param trace      gets all that travels, null for nothing
        /// @param log        gets a line for each failed connection
        record Settings(int maxMessage, long maxQueue, boolean deflate, SSLContext tls,
                        String hint, Consumer<Traced> trace, Consumer<String> log) {
            static final Settings DEFAULT =
                    new Settings(1 << 20, 8 << 20, true, null, "", null, line -> { });
        }

        /// A peer broke a rule or is not wanted. The code is an HTTP status before the connection
        /// is open, a close code (§7.4) after; the message goes to the peer and into the log.
        static final class Refusal extends IOException {
            final int code;

            Refusal(int code, String message) {
                super(message);
                this.code = code;
            }

            static void unless(boolean right, int code, String message) throws Refusal {
                if (!right) throw new Refusal(code, message);
            }
        }

        // ---- Bytes in -------------------------------------------------------------------------

        /// Unread bytes of a stream. The buffer grows while reads fill it, and shrinks at rest.
        private static final class Inbox {
            private final InputStream stream;
            private ByteBuffer unread = ByteBuffer.wrap(new byte[SMALL_BUFFER], 0, 0);
            private volatile long heard = System.nanoTime();

            Inbox(InputStream stream) { this.stream = stream; }

            /// Waits until there are `count` unread bytes; EOFException if there never will be.
            void await(int count) throws IOException {
                while (unread.remaining() < count) {
                    makeRoom();
                    int end = unread.limit();
                    int got = stream.read(unread.array(), end, unread.capacity() - end);
                    if (got < 0) throw new EOFException();
                    unread.limit(end + got);
                    heard = System.nanoTime();
                }
            }

            private void makeRoom() throws IOException {
                int size = unread.capacity(), left = unread.remaining();
                if (unread.limit() == size && size < BIG_BUFFER) size *= 2;
                else if (left == 0 && size > 8 * SMALL_BUFFER && stream.available() == 0)
                    size = SMALL_BUFFER;
                byte[] array = size == unread.capacity() ? unread.array() : new byte[size];
                System.arraycopy(unread.array(), unread.position(), array, 0, left);
                if (array == unread.array()) unread.clear().limit(left);
                else unread = ByteBuffer.wrap(array, 0, left);
            }

            /// A line of HTTP, without its CR LF (RFC 9112 §2.2: neither may stand alone).
            String line(int limit) throws IOException {
                for (int i = 0; i < limit; i++) {
                    await(i + 1);
                    byte next = unread.get(unread.position() + i);
                    boolean afterReturn = i > 0 && unread.get(unread.position() + i - 1) == '\r';
                    Refusal.unless((next == '\n') == afterReturn && next != 0, 400,
                            "a line must end with CR LF and hold no other CR, LF or NUL (§4.2.1)");
                    if (next == '\n') {
                        byte[] line = new byte[i + 1];
                        unread.get(line);
                        return new String(line, 0, i - 1, ISO_8859_1);
                    }
                }
                throw new Refusal(431, "the request is longer than " + MAX_HEAD + " bytes");
            }

            byte[] peek(int most) {
                byte[] bytes = new byte[Math.min(most, unread.remaining())];
                unread.get(unread.position(), bytes);
                return bytes;
            }

            void skip(long count) throws IOException {
                for (long left = count; left > 0; ) {
                    await(1);
                    int step = (int) Math.min(left, unread.remaining());
                    unread.position(unread.position() + step);
                    left -= step;
                }
            }
        }

        // ---- The opening handshake (§4.2) -----------------------------------------------------

        /// The client's HTTP request.
        record Handshake(String method, String target, Map<String, List<String>> headers) {
            private static final String TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
            private static final Pattern REQUEST = Pattern.compile(
                    "(" + TOKEN + ") (?:https?://[^/?# ]+(?=[/?]))?([/?][!-~&&[^#]]*) HTTP/1\\.[1-9]");
            private static final Pattern HOST = Pattern.compile(
                    "(\\[[0-9A-Fa-f:.]{2,45}]|[0-9A-Za-z._-]{1,253})(?::\\d{1,5})?");
            /// A list element `name` or a parameter `; name=value` (§9.1), with what stands before.
            private static final Pattern EXTENSION = Pattern.compile("\\G[ \t]*([,;]?)[ \t]*(" + TOKEN
                    + ")(?:[ \t]*=[ \t]*(?:(" + TOKEN + ")|\"(" + TOKEN + ")\"))?[ \t]*");

            static Handshake read(Inbox in) throws IOException {
                String first = in.line(MAX_HEAD);
                Matcher request = REQUEST.matcher(first);
                Refusal.unless(request.matches(), 400, "this is not an HTTP/1.1 request (§4.2.1)");
                var headers = new TreeMap<String, List<String>>(String.CASE_INSENSITIVE_ORDER);
                int left = MAX_HEAD - first.length(), count = 0;
                for (String line; !(line = in.line(left)).isEmpty(); left -= line.length() + 2) {
                    Refusal.unless(++count <= MAX_HEADERS, 431, "more than " + MAX_HEADERS + " headers");
                    String[] parts = line.split(":", 2);      // no blank before it: RFC 9112 §5.1
                    Refusal.unless(parts.length == 2 && parts[0].matches(TOKEN)
                            && parts[1].chars().noneMatch(c -> c < ' ' && c != '\t' || c == 127),
                            400, "a header line is not NAME: VALUE (§4.2.1)");
                    headers.computeIfAbsent(parts[0], n -> new ArrayList<>()).add(parts[1].strip());
                }
                return new Handshake(request.group(1), request.group(2), headers);
            }

            /// Every condition of §4.2.1, in the order in which it helps the reader of the answer.
            void check() throws Refusal {
                Refusal.unless(method.equals("GET"), 405, "a WebSocket begins with GET (§4.2.1)");
                Refusal.unless(values("Host").size() == 1 && host() != null, 400,
                        "exactly one valid Host header is needed (§4.2.1)");
                Refusal.unless(tokens("Upgrade").contains("websocket"), 426,
                        "this port speaks only WebSocket: Upgrade: websocket is missing (§4.2.1)");
                Refusal.unless(tokens("Connection").contains("upgrade"), 400,
                        "Connection: Upgrade is missing (§4.2.1)");
                Refusal.unless(one("Sec-WebSocket-Key").matches("[A-Za-z0-9+/]{22}=="), 400,
                        "exactly one Sec-WebSocket-Key of 16 bytes in base64 is needed (§4.2.1)");
                Refusal.unless(!one("Sec-WebSocket-Version").isEmpty(), 400,
                        "exactly one Sec-WebSocket-Version is needed (§4.2.1)");
                Refusal.unless(one("Sec-WebSocket-Version").equals("13"), 426,
                        "the version must be 13 (§4.4)");
            }

            List<String> values(String name) { return headers.getOrDefault(name, List.of()); }

            /// The value of a header that may stand only once, "" if it doesn't.
            String one(String name) { return values(name).size() == 1 ? values(name).get(0) : ""; }

            /// The elements of a header that is a list, perhaps over several lines, in lower case.
            Set<String> tokens(String name) {
                return Pattern.compile("[ \t]*,[ \t]*").splitAsStream(String.join(",", values(name)))
                        .filter(token -> !token.isEmpty()).map(token -> token.toLowerCase(Locale.ROOT))
                        .collect(Collectors.toCollection(LinkedHashSet::new));
            }

            /// As it was, but for white space and the order of the headers.
            String text() {
                var text = new StringBuilder(method + " " + target + " HTTP/1.1\n");
                headers.forEach((name, all) -> all.forEach(v -> text.append(name + ": " + v + "\n")));
                return text.toString();
            }

            /// The path without the query, still percent-encoded.
            String path() { return target.startsWith("?") ? "/" : target.split("\\?", 2)[0]; }

            /// The name by which the client called this server, without the port; or null.
            String host() { return hostName(one("Host")); }

            static String hostName(String hostAndPort) {
                Matcher host = HOST.matcher(hostAndPort);
                return host.matches() ? host.group(1).toLowerCase(Locale.ROOT) : null;
            }

            /// Whether a page of this same host asks, or none: the least that keeps other sites'
            /// pages from using a server with their visitors' rights (§10.2).
            boolean sameHost() {
                return values("Origin").isEmpty() || one("Origin").matches(
                        "(?i)https?://" + Pattern.quote(String.valueOf(host())) + "(:\\d{1,5})?");
            }

            /// §4.2.2: the first subprotocol the client offers that is known here, or null.
            String choose(List<String> known) throws Refusal {
                String chosen = null;
                for (String offer : String.join(",", values("Sec-WebSocket-Protocol")).split(",")) {
                    Refusal.unless(offer.isBlank() || offer.strip().matches(TOKEN), 400,
                            "Sec-WebSocket-Protocol is not a list of tokens (§11.3.4)");
                    if (chosen == null && known.contains(offer.strip())) chosen = offer.strip();
                }
                return chosen;
            }

            /// §9.1: the extensions offered: each its name, then its parameters as NAME or NAME=VALUE.
            List<List<String>> extensions() throws Refusal {
                String offered = String.join(",", values("Sec-WebSocket-Extensions")).strip();
                var offers = new ArrayList<List<String>>();
                var element = EXTENSION.matcher(offered);
                int end = 0;
                for (; element.find(); end = element.end()) {
                    String value = element.group(3) != null ? element.group(3) : element.group(4);
                    boolean parameter = element.group(1).equals(";");
                    if (parameter ? offers.isEmpty() : value != null
                            || element.group(1).isEmpty() != offers.isEmpty()) break;
                    if (!parameter) offers.add(new ArrayList<>());
                    offers.get(offers.size() - 1).add(element.group(2) + (value == null ? "" : "=" + value));
                }
                Refusal.unless(end == offered.length(), 400, "Sec-WebSocket-Extensions is not a list "
                        + "of extensions (§9.1)");
                return offers;
            }

            /// §4.2.2: proof that the request was read: the key's text and the GUID, hashed.
            static String acceptKey(String key) {
                try {
                    byte[] text = (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes(US_ASCII);
                    return Base64.getEncoder().encodeToString(
                            MessageDigest.getInstance("SHA-1").digest(text));
                } catch (NoSuchAlgorithmException impossible) {
                    throw new AssertionError(impossible);     // every JDK has SHA-1
                }
            }

            /// §4.2.2: the answer that turns the connection into a WebSocket.
            String accept(String protocol, String extensions) {
                return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        + "Sec-WebSocket-Accept: " + acceptKey(one("Sec-WebSocket-Key")) + "\r\n"
                        + (protocol == null ? "" : "Sec-WebSocket-Protocol: " + protocol + "\r\n")
                        + (extensions == null ? "" : "Sec-WebSocket-Extensions: " + extensions + "\r\n")
                        + "\r\n";
            }

            /// The answer that leaves it HTTP.
            static String refuse(Refusal refusal, String hint) {
                String body = refusal.code + ": " + refusal.getMessage() + ". " + hint + "\n";
                String status = refusal.code + switch (refusal.code) {
                    case 403 -> " Forbidden";
                    case 404 -> " Not Found";
                    case 405 -> " Method Not Allowed\r\nAllow: GET";
                    case 426 -> " Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
                    case 431 -> " Request Header Fields Too Large";
                    case 503 -> " Service Unavailable";
                    default -> " Bad Request";
                };
                return "HTTP/1.1 " + status + "\r\nConnection: close"
                        + (refusal.code == 426 ? ", Upgrade" : "")
                        + "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
                        + body.getBytes(UTF_8).length + "\r\n\r\n" + body;
            }
        }

        // ---- Frames (§5.2) --------------------------------------------------------------------

        enum Opcode {
            CONTINUATION(0), TEXT(1), BINARY(2), CLOSE(8), PING(9), PONG(10);

            final int bits;

            Opcode(int bits) { this.bits = bits; }

            boolean isControl() { return bits >= 8; }

            /// The opcode of these four bits, or null: 3 to 7 and 11 to 15 mean nothing (yet).
            static Opcode of(int bits) {
                return switch (bits) {
                    case 0 -> CONTINUATION;
                    case 1 -> TEXT;
                    case 2 -> BINARY;
                    case 8 -> CLOSE;
                    case 9 -> PING;
                    case 10 -> PONG;
                    default -> null;
                };
            }
        }

        /// What stands before the payload:
        ///
        ///      0 1 2 3 4 5 6 7   8 9 0 1 2 3 4 5   6 ...
        ///     +-+-+-+-+-------+ +-+-------------+ +---------------+-----------------+
        ///     |F|R|R|R| opcode| |M| length (7)  | | 2 or 8 bytes, | 4 bytes, if M:  | payload
        ///     |I|S|S|S|  (4)  | |A| 126: 2 more | | big-endian    | the masking key | ...
        ///     |N|V|V|V|       | |S| 127: 8 more | |               |                 |
        ///     +-+1+2+3+-------+ +K+-------------+ +---------------+-----------------+
        ///
        /// @param rsv RSV1 is 4; the other two are always 0
        /// @param key the masking key, 0 without a mask
        record Header(boolean fin, int rsv, Opcode opcode, boolean masked, int key, long length) {
            static final int FIN = 0x80, OPCODE = 0x0f, MASK = 0x80, LENGTH = 0x7f;
            static final int LENGTH_16 = 126, LENGTH_64 = 127, RSV1 = 4;

            /// Reads a header and checks all that can be said of it alone, as early as can be.
            /// It stays unread if a rule is broken, so that the culprit can be shown.
            /// @param deflate    whether RSV1 has a meaning
            /// @param fromClient whether a mask is demanded
            static Header read(Inbox in, boolean deflate, boolean fromClient) throws IOException {
                in.await(2);
                int start = in.unread.position();
                int first = in.unread.get(start), second = in.unread.get(start + 1);
                boolean fin = (first & FIN) != 0, masked = (second & MASK) != 0;
                int rsv = first >> 4 & 7, form = second & LENGTH;
                Opcode opcode = Opcode.of(first & OPCODE);
                Refusal.unless(opcode != null, 1002, "this opcode has no meaning (§5.2)");
                Refusal.unless(rsv == 0 || rsv == RSV1 && deflate, 1002,
                        "a reserved bit is set, but nothing was agreed about it (§5.2)");
                Refusal.unless(rsv == 0 || opcode == Opcode.TEXT || opcode == Opcode.BINARY, 1002,
                        "RSV1 stands only on a message's first frame (RFC 7692 §6.1)");
                Refusal.unless(masked || !fromClient, 1002, "a client must mask its frames (§5.1)");
                Refusal.unless(!opcode.isControl() || fin && form < LENGTH_16, 1002,
                        "a control frame is not fragmented and has at most 125 bytes (§5.5)");
                int size = form == LENGTH_64 ? 10 : form == LENGTH_16 ? 4 : 2;
                in.await(size);
                start = in.unread.position();
                long length = switch (form) {
                    case LENGTH_16 -> in.unread.getShort(start + 2) & 0xffff;
                    case LENGTH_64 -> in.unread.getLong(start + 2);
                    default -> form;
                };
                Refusal.unless(length >= 0, 1002, "the length's highest bit must be 0 (§5.2)");
                Refusal.unless(size == sizeFor(length), 1002,
                        "a length must be in its shortest form (§5.2)");
                if (masked) in.await(size += 4);
                int key = masked ? in.unread.getInt(in.unread.position() + size - 4) : 0;
                in.unread.position(in.unread.position() + size);
                return new Header(fin, rsv, opcode, masked, key, length);
            }

            /// Bytes of a header without a mask.
            static int sizeFor(long length) {
                return length < LENGTH_16 ? 2 : length <= 0xffff ? 4 : 10;
            }
        }

        /// A frame as a value, for either direction.
        record Frame(Header header, byte[] payload) {
            /// A server's frame: without a mask (§5.1).
            Frame(boolean compressed, Opcode opcode, byte[] payload) {
                this(new Header(true, compressed ? Header.RSV1 : 0, opcode, false, 0, payload.length),
                        payload);
            }

            /// The bytes on the wire, the length in its shortest form (§5.2).
            byte[] encode() {
                int size = Header.sizeFor(header.length), mask = header.masked ? 4 : 0;
                var bytes = ByteBuffer.allocate(size + mask + payload.length);
                bytes.put((byte) ((header.fin ? Header.FIN : 0) | header.rsv << 4 | header.opcode.bits));
                int form = size == 2 ? (int) header.length : size == 4 ? Header.LENGTH_16 : Header.LENGTH_64;
                bytes.put((byte) (form | (header.masked ? Header.MASK : 0)));
                if (size == 4) bytes.putShort((short) header.length);
                if (size == 10) bytes.putLong(header.length);
                if (!header.masked) return bytes.put(payload).array();
                bytes.putInt(header.key);
                unmask(payload, 0, header.key, 0, bytes.array(), bytes.position(), payload.length);
                return bytes.array();
            }

            private static final VarHandle EIGHT =
                    MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);

            /// §5.3: byte i of the payload XOR byte i mod 4 of the key, eight at a time. Masking
            /// and unmasking are the same.
            /// @param done bytes of this payload that came before these
            /// @return whether the result is all ASCII, which is always right UTF-8
            static boolean unmask(byte[] from, int at, int key, int done, byte[] to, int start, int count) {
                int turned = Integer.rotateLeft(key, 8 * (done & 3)), i = 0;
                long twice = (long) turned << 32 | turned & 0xffffffffL, all = 0;
                for (; i + 8 <= count; i += 8) {
                    long eight = (long) EIGHT.get(from, at + i) ^ twice;
                    EIGHT.set(to, start + i, eight);
                    all |= eight;
                }
                for (; i < count; i++) {
                    byte one = (byte) (from[at + i] ^ turned >>> 24 - 8 * (i & 3));
                    to[start + i] = one;
                    all |= one;
                }
                return (all & 0x8080808080808080L) == 0;
            }
        }

        // ---- Close codes and text -------------------------------------------------------------

        /// §7.4: whether a Close frame may carry this code.
        static boolean isLegal(int code) {
            return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014
                    || code >= 3000 && code <= 4999;
        }

        /// A Close frame's payload: code and reason, cut between two characters to 125 bytes (§5.5).
        static byte[] closePayload(int code, String reason) {
            var payload = ByteBuffer.allocate(125).putShort((short) code);
            UTF_8.newEncoder().onMalformedInput(CodingErrorAction.REPLACE)
                    .encode(CharBuffer.wrap(reason), payload, true);
            return Arrays.copyOf(payload.array(), payload.position());
        }

        /// §8.1: checks that these bytes are UTF-8, as far as one can tell yet.
        /// @param whole whether no more bytes follow; else the last character may be incomplete
        /// @return where the first character begins that is not yet complete
        static int checkText(byte[] bytes, int from, int to, boolean whole) throws Refusal {
            var rest = ByteBuffer.wrap(bytes, from, to - from);
            var scratch = CharBuffer.allocate(Math.min(to - from + 1, 4096));
            var decoder = UTF_8.newDecoder();
            CoderResult result;
            do result = decoder.decode(rest, scratch.clear(), whole); while (result.isOverflow());
            Refusal.unless(!result.isError(), 1007, "text must be UTF-8 (§8.1)");
            return rest.position();
        }

        // ---- permessage-deflate (RFC 7692) ----------------------------------------------------

        /// Compression of whole messages. No window is kept from one message to the next, so an idle
        /// connection costs nothing and one compressed message serves all receivers.
        private static final class Deflate {
            /// What an accepted offer may contain. java.util.zip always has a window of 15 bits: it
            /// can't keep to a smaller one, and reads whatever the client uses (§7.1.2).
            private static final Pattern LEGAL = Pattern.compile("(client|server)_no_context_takeover"
                    + "|server_max_window_bits=15|client_max_window_bits(=([89]|1[0-5]))?");
            private static final byte[] TAIL = {0, 0, (byte) 0xff, (byte) 0xff};

            /// §7.1: the answer to the first offer that can be kept, or null: then no compression.
            static String agree(List<List<String>> offers) {
                for (List<String> offer : offers) {
                    List<String> parameters = offer.subList(1, offer.size());
                    long names = parameters.stream().map(p -> p.split("=")[0]).distinct().count();
                    if (offer.get(0).equals("permessage-deflate") && names == parameters.size()
                            && parameters.stream().allMatch(p -> LEGAL.matcher(p).matches()))
                        return "permessage-deflate; server_no_context_takeover; "
                                + "client_no_context_takeover" + (parameters.contains(
                                "server_max_window_bits=15") ? "; server_max_window_bits=15" : "");
                }
                return null;
            }

            /// §7.2.1: deflate, flush, take the last four bytes away.
            static byte[] deflate(byte[] message) {
                var deflater = new Deflater(Deflater.BEST_SPEED, true);
                try {
                    deflater.setInput(message);
                    var out = new ByteArrayOutputStream(message.length / 2 + 64);
                    byte[] buffer = new byte[8192];
                    int got;
                    do {
                        got = deflater.deflate(buffer, 0, buffer.length, Deflater.SYNC_FLUSH);
                        out.write(buffer, 0, got);
                    } while (got == buffer.length);
                    return Arrays.copyOf(out.toByteArray(), out.size() - TAIL.length);
                } finally {
                    deflater.end();
                }
            }

            /// §7.2.2: put the four bytes back, inflate, but never beyond `limit` bytes.
            static byte[] inflate(byte[] message, int limit) throws Refusal {
                Refusal.unless(message.length > 0, 1002, "compressed data is never empty (RFC 7692 §7.2.1)");
                byte[] input = Arrays.copyOf(message, message.length + TAIL.length);
                System.arraycopy(TAIL, 0, input, message.length, TAIL.length);
                var inflater = new Inflater(true);
                try {
                    inflater.setInput(input);
                    byte[] out = new byte[Math.min(limit, 4 * input.length) + 1];
                    int size = 0;
                    while (true) {
                        int got = inflater.inflate(out, size, out.length - size);
                        size += got;
                        Refusal.unless(size <= limit, 1009, "inflated, the message is longer than "
                                + limit + " bytes (§10.4)");
                        if (inflater.finished() && inflater.getRemaining() > 0) {
                            // a block with BFINAL set: others may follow it (§7.2.3.4)
                            int rest = inflater.getRemaining(), window = Math.min(size, 1 << 15);
                            inflater.reset();
                            inflater.setInput(input, input.length - rest, rest);
                            inflater.setDictionary(out, size - window, window);
                        } else if (size == out.length)
                            out = Arrays.copyOf(out, (int) Math.min(2L * size, limit + 1L));
                        else if (got == 0) return Arrays.copyOf(out, size);
                    }
                } catch (DataFormatException broken) {
                    throw new Refusal(1007, "this is not DEFLATE data (RFC 7692 §7.2.2)");
                } finally {
                    inflater.end();
                }
            }
        }

        // ---- Messages (§5.6) ------------------------------------------------------------------

        /// What applications exchange: the frames are gone.
        sealed interface Message permits Text, Binary {
            byte[] payload();
        }

        /// @param payload UTF-8; that of a received message has been checked
        record Text(byte[] payload) implements Message {
            Text(String text) { this(text.getBytes(UTF_8)); }

            String text() { return new String(payload, UTF_8); }
        }

        record Binary(byte[] payload) implements Message { }

        /// A message made ready to be sent to many: encoded once, compressed at most once.
        static final class Prepared {
            private final Opcode opcode;
            private final byte[] payload, plain;
            private byte[] compressed;

            Prepared(Message message) {
                opcode = message instanceof Text ? Opcode.TEXT : Opcode.BINARY;
                payload = message.payload();
                plain = new Frame(false, opcode, payload).encode();
            }

            private byte[] frame(boolean deflate) {
                return deflate && payload.length >= DEFLATE_FROM ? compressed() : plain;
            }

            private synchronized byte[] compressed() {
                if (compressed == null) {
                    byte[] smaller = Deflate.deflate(payload);
                    compressed = smaller.length < payload.length
                            ? new Frame(true, opcode, smaller).encode() : plain;
                }
                return compressed;
            }
        }

        // ---- Bytes out ------------------------------------------------------------------------

        /// Frames on their way to one socket, in order. Adding never waits: a virtual thread writes,
        /// which exists only while there is something to write, and writes in one system call
        /// whatever has piled up. A peer who lets too much pile up is cut off: waiting would hold up
        /// the others, and leaving something out would be a lie.
        private final class Outbox implements Runnable {
            private List<byte[]> waiting;
            private byte[] newestPong;
            private boolean writing;
            private volatile boolean ended;
            /// Bytes added and not yet written.
            private volatile long bytes;
            /// When the present write began (System.nanoTime), 0 if none is going on.
            private volatile long writingSince;
            private volatile Thread sleeper;

            /// @param last whether nothing may follow: a Close frame (§5.5.1)
            /// @return whether it was taken: nothing is after the last
            boolean add(byte[] frame, boolean last) {
                boolean full, idle;
                synchronized (this) {
                    if (ended) return false;
                    full = bytes > settings.maxQueue;
                    idle = !writing;
                    ended = last || full;
                    if (!full) {
                        if (waiting == null) waiting = new ArrayList<>(4);
                        waiting.add(frame);
                        bytes += frame.length;
                        writing = true;
                    }
                }
                if (full) {
                    settings.log.accept(WebSocket.this + ": reads too slowly, " + bytes + " bytes wait");
                    cutOff();
                } else if (idle) {
                    // The connection's own thread writes for itself, unless more input is here
                    // already: the answers to all of it make better use of one system call.
                    if (Thread.currentThread() == owner && !in.unread.hasRemaining()) run();
                    else Thread.startVirtualThread(this);
                }
                return !full;
            }

            /// §5.5.3: of many pings only the newest needs an answer, so a flood of them is free.
            void addPong(byte[] frame) {
                synchronized (this) {
                    if (bytes > PONG_BACKLOG) newestPong = frame;
                    if (newestPong == frame) return;
                }
                add(frame, false);
            }

            /// Writes until nothing is left.
            @Override
            public void run() {
                try {
                    for (List<byte[]> batch = take(0); batch != null; ) {
                        writingSince = System.nanoTime();
                        long size = 0;
                        for (byte[] frame : batch) size += frame.length;
                        write(batch, (int) Math.min(size, BATCH));
                        batch = take(size);
                    }
                } catch (IOException lost) {
                    giveUp();
                    cutOff();
                }
            }

            private synchronized void giveUp() {
                ended = true;
                waiting = null;
                bytes = 0;
                LockSupport.unpark(sleeper);
            }

            /// @return what has come while `written` bytes were written, null to end the writing
            private synchronized List<byte[]> take(long written) {
                bytes -= written;
                LockSupport.unpark(sleeper);
                List<byte[]> batch = waiting;
                waiting = null;
                if (newestPong != null) {
                    if (batch == null) batch = new ArrayList<>(1);
                    batch.add(newestPong);
                    bytes += newestPong.length;
                    newestPong = null;
                }
                if (batch == null) { writing = false; writingSince = 0; }
                return batch;
            }

            private void write(List<byte[]> batch, int size) throws IOException {
                if (tracer != null) for (byte[] frame : batch) tracer.sent(frame);
                var stream = batch.size() == 1 ? out : new BufferedOutputStream(out, size);
                for (byte[] frame : batch) stream.write(frame);
                stream.flush();
            }

            /// Waits until at most `most` bytes are unwritten: a talker is slowed by what he hears.
            void await(long most) {
                if (bytes <= most) return;
                sleeper = Thread.currentThread();
                while (bytes > most) LockSupport.park(this);
                sleeper = null;
            }
        }

        // ---- What travels, explained ----------------------------------------------------------

        /// Bytes that belong together, what they are, and what they mean.
        record Field(String hex, String name, String meaning) { }

        /// Something that went over a connection.
        /// @param direction "in", "out", or "" for what happened to the connection itself
        record Traced(String time, String connection, String direction, String title,
                      List<Field> fields) {
            /// Colour only where a person looks: a terminal, and no NO_COLOR.
            private static final boolean COLOUR = System.getenv("NO_COLOR") == null && isTerminal();

            private static boolean isTerminal() {
                try {
                    return Path.of("/dev/stderr").toRealPath().toString().matches("/dev/(pts|tty).*");
                } catch (IOException none) {
                    return false;
                }
            }

            /// The title and the fields, each in one line, separated by tabs.
            List<String> rows() {
                var rows = new ArrayList<>(List.of(String.join("\t", time, connection, direction, title)));
                for (Field field : fields)
                    rows.add(String.join("\t", field.hex, field.name, field.meaning));
                return rows;
            }

            /// The same for people, in 100 columns.
            @Override
            public String toString() {
                var text = new StringBuilder(colour("1", "%s %-5s %-4s%s".formatted(
                        time, connection, direction, title)));
                for (Field field : fields) {
                    String rest = field.hex.isEmpty() && field.meaning.isEmpty() ? field.name
                            : "%-25s %s".formatted(field.name, field.meaning);
                    text.append("\n    ").append(field.hex.isEmpty() && field.meaning.isEmpty() ? ""
                            : colour("36", "%-23s  ".formatted(field.hex))).append(rest.stripTrailing());
                }
                return text.toString();
            }

            private static String colour(String code, String text) {
                return COLOUR ? "\033[" + code + "m" + text + "\033[0m" : text;
            }
        }

        /// Explains one connection, frame by frame.
        private static final class Tracer {
            private static final Map<String, String> HEADERS = Map.of(
                    "get", "the path chooses the room (§4.1)",
                    "upgrade", "from HTTP to WebSocket (§4.1)",
                    "origin", "the page that asks (§10.2)",
                    "sec-websocket-key", "16 random bytes (§4.1)",
                    "sec-websocket-accept", "SHA-1 of key and GUID (§4.2.2)",
                    "sec-websocket-version", "the only one there is (§4.4)",
                    "sec-websocket-protocol", "of the messages' meaning (§1.9)",
                    "sec-websocket-extensions", "compression (RFC 7692)");
            private final Consumer<Traced> sink;
            private final String connection;
            private final Progress received = new Progress(), sent = new Progress();

            /// A message of which not all fragments have been seen.
            private static final class Progress {
                private final ByteArrayOutputStream payload = new ByteArrayOutputStream();
                private int fragments;
                private boolean compressed;
            }

            Tracer(Consumer<Traced> sink, String connection) {
                this.sink = sink;
                this.connection = connection;
            }

            void note(String direction, String title, List<Field> fields) {
                sink.accept(new Traced(now(), connection, direction, title, fields));
            }

            void http(String direction, String title, String text) {
                note(direction, title, text.lines().filter(line -> !line.isEmpty()).map(line -> {
                    String word = line.split("[: ]", 2)[0].toLowerCase(Locale.ROOT);
                    return new Field("", elide(printable(line), 60), HEADERS.getOrDefault(word, ""));
                }).toList());
            }

            void received(Frame frame) { frame("in", frame, received); }

            void sent(byte[] wire) {
                try {
                    Inbox in = new Inbox(new ByteArrayInputStream(wire));
                    Header header = Header.read(in, true, false);
                    byte[] payload = Arrays.copyOfRange(wire, wire.length - (int) header.length, wire.length);
                    frame("out", new Frame(header, payload), sent);
                } catch (IOException impossible) {
                    throw new AssertionError(impossible);     // it was made here
                }
            }

            private void frame(String direction, Frame frame, Progress progress) {
                Header header = frame.header;
                String name = header.opcode.name();
                note(direction, name + " frame, " + header.length + " bytes", fields(frame, progress));
            }

            private static List<Field> fields(Frame frame, Progress progress) {
                Header header = frame.header;
                byte[] wire = frame.encode(), payload = frame.payload;
                int size = Header.sizeFor(header.length), start = wire.length - payload.length;
                var fields = new ArrayList<Field>();
                fields.add(new Field(hex(wire, 0, 1), "FIN=%d RSV=%s opcode=%d".formatted(
                        header.fin ? 1 : 0, Integer.toBinaryString(8 | header.rsv).substring(1),
                        header.opcode.bits), role(frame, progress)));
                fields.add(new Field(hex(wire, 1, 2), "MASK=%d length=%d".formatted(
                        header.masked ? 1 : 0, wire[1] & Header.LENGTH), size == 2
                        ? "the length itself (§5.2)" : "the next " + (size - 2) + " bytes have it (§5.2)"));
                if (size > 2) fields.add(new Field(hex(wire, 2, size), "length", header.length + " bytes"));
                if (header.masked) {
                    fields.add(new Field(hex(wire, size, start), "masking key", "new for each frame (§5.3)"));
                    if (payload.length > 0)
                        fields.add(new Field(hex(wire, start, wire.length), "payload, masked", ""));
                }
                if (payload.length > 0)
                    fields.add(new Field(hex(payload, 0, payload.length), "payload",
                            meaning(header, payload, progress)));
                if (header.fin && !header.opcode.isControl() && progress.compressed)
                    fields.add(inflated(progress.payload.toByteArray()));
                return fields;
            }

            private static String role(Frame frame, Progress progress) {
                Header header = frame.header;
                switch (header.opcode) {
                    case CLOSE: return "CLOSE (§5.5.1)";
                    case PING: return "PING, asks for a PONG (§5.5.2)";
                    case PONG: return "PONG (§5.5.3)";
                    case TEXT, BINARY:
                        progress.payload.reset();
                        progress.fragments = 0;
                        progress.compressed = header.rsv != 0;
                        break;
                    default:
                }
                progress.payload.writeBytes(frame.payload);
                int count = ++progress.fragments, size = progress.payload.size();
                if (!header.fin) return header.opcode + ", fragment " + count + ", " + size + " bytes so far (§5.4)";
                return header.opcode + (count == 1 ? ", a whole message (§5.6)"
                        : ", the last of " + count + " fragments (§5.4)");
            }

            private static String meaning(Header header, byte[] payload, Progress progress) {
                if (header.opcode == Opcode.CLOSE && payload.length > 1)
                    return (ByteBuffer.wrap(payload).getShort() & 0xffff) + " "
                            + quote(Arrays.copyOfRange(payload, 2, payload.length)) + " (§7.4)";
                return !header.opcode.isControl() && progress.compressed ? "compressed (RFC 7692 §7.2.1)"
                        : quote(payload);
            }

            private static Field inflated(byte[] compressed) {
                try {
                    byte[] whole = Deflate.inflate(compressed, Settings.DEFAULT.maxMessage);
                    return new Field(hex(whole, 0, whole.length), "inflated, " + whole.length + " bytes",
                            quote(whole) + " saved " + (whole.length - compressed.length));
                } catch (Refusal broken) {
                    return new Field("", "inflated", broken.getMessage());
                }
            }

            /// Up to eight bytes; of more the first four and the last three.
            private static String hex(byte[] bytes, int from, int to) {
                HexFormat hex = HexFormat.ofDelimiter(" ");
                return to - from <= 8 ? hex.formatHex(bytes, from, to)
                        : hex.formatHex(bytes, from, from + 4) + " … " + hex.formatHex(bytes, to - 3, to);
            }

            private static String quote(byte[] bytes) {
                try {
                    checkText(bytes, 0, bytes.length, true);
                    return '"' + elide(printable(new String(bytes, UTF_8)), 36) + '"';
                } catch (Refusal binary) {
                    return bytes.length + " bytes";
                }
            }
        }

        /// Frames of either direction, explained as --trace would.
        static String explain(byte[] frames) {
            var text = new StringJoiner("\n");
            var settings = new Settings(1 << 30, 1 << 30, true, null, "",
                    traced -> { if (!traced.direction.equals("out")) text.add(traced.toString()); },
                    line -> { });
            var webSocket = new WebSocket(null, settings);
            webSocket.in = new Inbox(new ByteArrayInputStream(frames));
            webSocket.out = OutputStream.nullOutputStream();
            webSocket.owner = Thread.currentThread();
            webSocket.deflate = webSocket.upgraded = webSocket.eitherSide = true;
            try {
                while (webSocket.receive() != null) continue;
                if (webSocket.in.unread.hasRemaining()) text.add("the bytes end inside a frame");
            } catch (Refusal shown) {
                // by the tracer
            }
            return text.toString();
        }

        static String elide(String text, int most) {
            return text.length() <= most ? text
                    : text.substring(0, most - 8) + " … " + text.substring(text.length() - 5);
        }

        /// For a terminal: control characters, also those of writing direction, become numbers.
        static String printable(String text) {
            return Pattern.compile("[\\p{C}\\p{Zl}\\p{Zp}]").matcher(text).replaceAll(
                    unsafe -> "\\\\u{%x}".formatted(unsafe.group().codePointAt(0)));
        }

        static String now() {
            return LocalTime.now().format(DateTimeFormatter.ofPattern("HH:mm:ss.SSS"));
        }

        // ---- The connection -------------------------------------------------------------------

        /// §4.1, §7.1.3, and a browser's readyState.
        enum State { CONNECTING, OPEN, CLOSING, CLOSED }

        /// Decides about a correct handshake: throws a Refusal with an HTTP status, or names the
        /// subprotocols known at this path.
        interface Welcome { List<String> of(Handshake handshake) throws Refusal; }

        /// What is done with a connection once it is open. When it returns, or throws, it is closed.
        interface Handler { void handle(WebSocket webSocket) throws IOException; }

        private static final byte[] NOTHING = {};
        private static final AtomicLong COUNT = new AtomicLong();
        private static final Set<WebSocket> LIVE = ConcurrentHashMap.newKeySet();
        private static final AtomicBoolean WATCHED = new AtomicBoolean();

        private final long number = COUNT.incrementAndGet();
        private final Socket socket;
        private final Settings settings;
        private final Tracer tracer;
        private final Outbox outbox = new Outbox();
        private Inbox in;
        private OutputStream out;
        private Thread owner;
        private String path, protocol;
        private boolean deflate, eitherSide;
        private volatile boolean upgraded, over;
        private volatile long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(HANDSHAKE_TIME);
        private int closeCode = 1006;
        private String closeReason = "";
        // The message of which some fragments have come: its opcode, null if there is none; its
        // bytes; how many of them are checked as text; how many fragments were empty.
        private Opcode opcode;
        private boolean compressed;
        private byte[] message = NOTHING;
        private int gathered, checked, empty;

        WebSocket(Socket socket, Settings settings) {
            this.socket = socket;
            this.settings = settings;
            tracer = settings.trace == null ? null : new Tracer(settings.trace, "#" + number);
        }

        /// Serves one connection from its first byte to its last, in this thread.
        static void serve(Socket socket, Handler handler) {
            new WebSocket(socket, Settings.DEFAULT).serve(handshake -> {
                Refusal.unless(handshake.sameHost(), 403, "a page of another origin may not connect (§10.2)");
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
                while (receive() != null) continue;     // until the peer has answered the Close
            } catch (Refusal refusal) {
                fail(refusal, NOTHING);
            } catch (Throwable bug) {
                if (!(bug instanceof EOFException)) settings.log.accept(this + ": " + bug);
                if (upgraded) fail(new Refusal(1011, "the server has a problem (§7.4.1)"), NOTHING);
            } finally {
                hangUp();
            }
        }

        private void open(Welcome welcome) throws IOException {
            socket.setTcpNoDelay(true);
            Socket stream = socket;
            if (settings.tls != null) {                 // §4.2.2: TLS comes before everything else
                var secure = (SSLSocket) settings.tls.getSocketFactory()
                        .createSocket(socket, null, socket.getPort(), true);
                secure.setUseClientMode(false);
                secure.setEnabledProtocols(new String[] {"TLSv1.3", "TLSv1.2"});
                stream = secure;
            }
            in = new Inbox(stream.getInputStream());
            out = stream.getOutputStream();
            Handshake handshake = Handshake.read(in);
            if (tracer != null) tracer.http("in", "the opening handshake (§4.1)", handshake.text());
            handshake.check();
            path = handshake.path();
            List<String> known = welcome.of(handshake);
            protocol = handshake.choose(known);
            String extensions = Deflate.agree(handshake.extensions());
            if (!settings.deflate) extensions = null;
            deflate = extensions != null;
            String answer = handshake.accept(protocol, extensions);
            if (tracer != null) tracer.http("out", "its answer (§4.2.2)", answer);
            out.write(answer.getBytes(US_ASCII));
            out.flush();
            upgraded = true;
        }

        /// Waits for the next message. Pings are answered meanwhile, a Close as well.
        /// @return null when the connection has ended: see closeCode()
        /// @throws Refusal the peer broke a rule; he has been told which
        Message receive() throws Refusal {
            Header header = null;
            try {
                for (Message whole; !over; header = null) {
                    outbox.await(settings.maxQueue / 2);
                    header = Header.read(in, deflate, !eitherSide);
                    whole = header.opcode.isControl() ? control(header) : data(header);
                    if (whole != null) return whole;
                }
            } catch (Refusal refusal) {
                fail(refusal, header == null ? in.peek(14) : NOTHING);
                throw refusal;
            } catch (IOException lost) {
                over = true;                            // no Close frame: 1006 (§7.1.5)
            }
            return null;
        }

        private Message control(Header header) throws IOException {
            byte[] payload = new byte[(int) header.length];
            in.await(payload.length);
            Frame.unmask(in.unread.array(), in.unread.position(), header.key, 0, payload, 0, payload.length);
            in.unread.position(in.unread.position() + payload.length);
            if (tracer != null) tracer.received(new Frame(header, payload));
            switch (header.opcode) {
                case PING -> outbox.addPong(new Frame(false, Opcode.PONG, payload).encode());  // §5.5.2
                case CLOSE -> closed(payload);
                default -> { }                          // a pong: that it came was enough (§5.5.3)
            }
            return null;
        }

        /// §5.5.1: a Close is answered with a Close of the same code; then TCP is closed (§7.1.1).
        private void closed(byte[] payload) throws Refusal {
            Refusal.unless(payload.length != 1, 1002, "a Close has no code or one of two bytes (§5.5.1)");
            int code = payload.length == 0 ? 1005 : ByteBuffer.wrap(payload).getShort() & 0xffff;
            Refusal.unless(code == 1005 && payload.length == 0 || isLegal(code), 1002,
                    "no Close frame may carry this code (§7.4)");
            if (payload.length > 2) checkText(payload, 2, payload.length, true);
            closeCode = code;
            closeReason = payload.length == 0 ? "" : new String(payload, 2, payload.length - 2, UTF_8);
            over = true;
            end(Arrays.copyOf(payload, Math.min(2, payload.length)));
        }

        private Message data(Header header) throws IOException {
            if (outbox.ended) {                         // after our Close nothing counts (§1.4)
                in.skip(header.length);
                return null;
            }
            int start = gathered;
            try {
                boolean first = header.opcode != Opcode.CONTINUATION;
                Refusal.unless(first || opcode != null, 1002, "there is no message to continue (§5.4)");
                Refusal.unless(!first || opcode == null, 1002,
                        "a message begins before the one before it has ended (§5.4)");
                Refusal.unless(header.length <= settings.maxMessage - gathered, 1009,
                        "a message may have " + settings.maxMessage + " bytes (§10.4)");
                Refusal.unless(header.length > 0 || ++empty <= MAX_EMPTY, 1008,
                        "more than " + MAX_EMPTY + " empty fragments (§10.4)");
                if (first) {
                    opcode = header.opcode;
                    compressed = header.rsv != 0;
                }
                readPayload(header);
            } finally {
                if (tracer != null) tracer.received(
                        new Frame(header, Arrays.copyOfRange(message, start, gathered)));
            }
            return header.fin ? finish() : null;
        }

        private void readPayload(Header header) throws IOException {
            for (int done = 0, length = (int) header.length; done < length; ) {
                in.await(1);
                int step = Math.min(length - done, in.unread.remaining());
                if (gathered + step > message.length)   // trust no length: grow as the bytes come
                    message = Arrays.copyOf(message, done + step == length ? gathered + step
                            : (int) Math.min(2L * (gathered + step), gathered + (long) length - done));
                boolean ascii = Frame.unmask(in.unread.array(), in.unread.position(), header.key, done,
                        message, gathered, step);
                in.unread.position(in.unread.position() + step);
                done += step;
                gathered += step;
                if (opcode != Opcode.TEXT || compressed) continue;
                checked = ascii && checked == gathered - step ? gathered
                        : checkText(message, checked, gathered, false);
            }
        }

        private Message finish() throws Refusal {
            byte[] payload = gathered == message.length ? message : Arrays.copyOf(message, gathered);
            if (compressed) payload = Deflate.inflate(payload, settings.maxMessage);
            boolean text = opcode == Opcode.TEXT;
            if (text && checked < payload.length) checkText(payload, checked, payload.length, true);
            opcode = null;
            message = NOTHING;
            gathered = checked = empty = 0;
            return text ? new Text(payload) : new Binary(payload);
        }

        /// Sends a message, or a prepared one, from any thread; never waits for the peer, except
        /// that the connection's own thread may write itself.
        /// @return false if nothing can be sent any more
        boolean send(Message message) { return send(new Prepared(message)); }

        boolean send(Prepared prepared) { return upgraded && outbox.add(prepared.frame(deflate), false); }

        /// §5.5.2. The answer isn't reported, but it ends a silence.
        void ping() { outbox.add(new Frame(false, Opcode.PING, NOTHING).encode(), false); }

        /// Starts to close (§7.1.2). receive() returns null once the peer has answered.
        /// @param reason at most 123 bytes of UTF-8; what is more is cut off
        /// @throws IllegalArgumentException for a code that no Close frame may carry
        void close(int code, String reason) {
            if (!isLegal(code)) throw new IllegalArgumentException("close code " + code + " (§7.4)");
            if (upgraded) end(closePayload(code, reason));
            else cutOff();                              // §7.2.2: no Close frame before it is open
        }

        private void end(byte[] payload) {
            if (outbox.ended) return;
            deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(CLOSE_TIME);
            outbox.add(new Frame(false, Opcode.CLOSE, payload).encode(), true);
        }

        State state() {
            return over ? State.CLOSED : outbox.ended ? State.CLOSING
                    : upgraded ? State.OPEN : State.CONNECTING;
        }

        /// The path of the request, still percent-encoded.
        String path() { return path; }

        /// The subprotocol that was chosen, or null.
        String protocol() { return protocol; }

        /// §7.1.5: the code of the peer's Close; 1005 if it had none, 1006 if no Close came.
        int closeCode() { return closeCode; }

        String closeReason() { return closeReason; }

        @Override
        public String toString() { return "#" + number; }

        /// §7.1.7: says why, and processes nothing more of what the peer sends.
        private void fail(Refusal refusal, byte[] culprit) {
            if (over) return;
            over = true;
            settings.log.accept(this + ": " + refusal.code + ", " + refusal.getMessage());
            if (tracer != null) tracer.note("", "refused: " + refusal.code + ", " + refusal.getMessage(),
                    culprit.length == 0 ? List.of() : List.of(new Field(
                            Tracer.hex(culprit, 0, Math.min(8, culprit.length)), "the bytes", "")));
            if (upgraded) end(closePayload(refusal.code, refusal.getMessage()));
            else refuse(refusal);
        }

        private void refuse(Refusal refusal) {
            String answer = Handshake.refuse(refusal, settings.hint);
            if (tracer != null) tracer.http("out", "refused", answer);
            deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(CLOSE_TIME);
            try {
                out.write(answer.getBytes(UTF_8));
                out.flush();
            } catch (IOException gone) {
                // he didn't wait for the answer
            }
        }

        /// §7.1.1: all written, our half closed first, then read until the peer has closed his: a
        /// close with unread input would be a reset, and a reset can overtake the Close frame.
        private void hangUp() {
            over = true;
            try {
                outbox.await(0);
                socket.shutdownOutput();
                in.skip(Long.MAX_VALUE);
            } catch (IOException | NullPointerException ended) {
                // as expected
            } finally {
                LIVE.remove(this);
                try { socket.close(); } catch (IOException closed) { }
            }
        }

        /// Ends the connection at once, without a Close: what is unsent is thrown away.
        void cutOff() {
            try {
                socket.setSoLinger(true, 0);
                socket.close();
            } catch (IOException closed) {
                // then that is that
            }
        }

        // ---- Time -----------------------------------------------------------------------------

        /// One virtual thread looks after all connections, while there are any: that costs less than
        /// a timed read in each.
        private void watch() {
            LIVE.add(this);
            if (!WATCHED.getAndSet(true)) Thread.startVirtualThread(() -> {
                do {
                    while (!LIVE.isEmpty()) {
                        LockSupport.parkNanos(TimeUnit.SECONDS.toNanos(1));
                        for (WebSocket webSocket : LIVE) webSocket.look(System.nanoTime());
                    }
                    WATCHED.set(false);
                } while (!LIVE.isEmpty() && !WATCHED.getAndSet(true));
            });
        }

        private void look(long now) {
            long silence = upgraded ? (now - in.heard) / 1_000_000_000 : 0, since = outbox.writingSince;
            boolean stuck = since != 0 && now - since > TimeUnit.SECONDS.toNanos(2 * SILENCE);
            if (!upgraded || outbox.ended ? now - deadline > 0 : stuck || silence >= 2 * SILENCE) {
                settings.log.accept(this + ": no sign of life");
                cutOff();
            } else if (silence < SILENCE) pinged = false;
            else if (!pinged) {
                pinged = true;
                ping();
            }
        }
        private boolean pinged;
    }

    // ---------------------------------------------------------------------------------------------

    /// Who is in which room, what a line means, who hears it.
    static final class Rooms {
        /// The subprotocol of those who want to be told of arrivals (§1.9).
        static final String PRESENCE = "presence";
        /// Members from which on comings and goings are not told: N arrivals would cost N² lines.
        static final int CROWD = 1000;
        /// Rooms at a time: each costs memory, and names are free.
        static final int MAX_ROOMS = 10_000;
        /// Names that an answer to /who lists.
        static final int MAX_LISTED = 100;
        private static final Pattern ROOM = Pattern.compile("[\\p{L}\\p{M}\\p{N}_-]{1,64}");
        private static final Pattern NICK = Pattern.compile("[\\p{L}\\p{M}\\p{N}_-]{1,24}");

        /// One who is here. The nick changes only under the room's lock.
        static final class Member {
            private final WebSocket webSocket;
            private final String room;
            private volatile String nick;

            private Member(WebSocket webSocket, String room) {
                this.webSocket = webSocket;
                this.room = room;
            }

            private boolean tell(String line) { return webSocket.send(notice(line)); }
        }

        /// The lock makes one order of all that happens in a room.
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
            if (!path.startsWith("/chat/")) return null;
            try {
                String name = URLDecoder.decode(path.substring(6), UTF_8);
                name = Normalizer.normalize(name, Normalizer.Form.NFC);
                return ROOM.matcher(name).matches() ? name : null;
            } catch (IllegalArgumentException badEscape) {
                return null;
            }
        }

        private static WebSocket.Text notice(String line) { return new WebSocket.Text(" .... " + line); }

        boolean areFull(String room) { return rooms.size() >= MAX_ROOMS && !rooms.containsKey(room); }

        Member enter(WebSocket webSocket, String name) {
            var member = new Member(webSocket, name);
            do member.nick = "user-" + ThreadLocalRandom.current().nextInt(100_000);
            while (nicks.putIfAbsent(key(member.nick), member) != null);
            Room room = rooms.compute(name, (n, found) -> {     // atomic, as is leave()'s
                Room there = found == null ? new Room() : found;
                there.lock.lock();
                there.members.add(member);
                return there;
            });
            try {
                var arrival = new WebSocket.Prepared(notice(member.nick + " has joined."));
                boolean crowd = room.members.size() > CROWD;
                for (Member other : crowd ? Set.of(member) : room.members)
                    if (PRESENCE.equals(other.webSocket.protocol())) other.webSocket.send(arrival);
            } finally {
                room.lock.unlock();
            }
            return member;
        }

        void leave(Member member) {
            nicks.remove(key(member.nick), member);
            rooms.computeIfPresent(member.room, (name, room) -> {
                room.lock.lock();
                try {
                    boolean crowd = room.members.size() > CROWD;
                    room.members.remove(member);
                    if (!crowd) tell(room, notice(member.nick + " has left."));
                    return room.members.isEmpty() ? null : room;
                } finally {
                    room.lock.unlock();
                }
            });
        }

        /// What a member typed: a line for all, or a command.
        void hear(Member member, WebSocket.Text said) {
            byte[] line = said.payload();
            boolean slash = line.length > 0 && line[0] == '/';
            boolean twice = slash && line.length > 1 && line[1] == '/';
            if (slash && !twice) {
                String[] words = said.text().strip().split("\\s+", 2);
                String answer = command(member, words[0], words.length > 1 ? words[1] : "");
                if (answer != null) member.tell(answer);
                return;
            }
            byte[] name = (member.nick + ": ").getBytes(UTF_8);
            int skip = twice ? 1 : 0;
            byte[] whole = Arrays.copyOf(name, name.length + line.length - skip);
            System.arraycopy(line, skip, whole, name.length, line.length - skip);
            deliver(member.room, new WebSocket.Text(whole));
        }

        /// A new command is one more case here.
        /// @return what only the asker is told, or null
        private String command(Member member, String word, String rest) {
            return switch (word) {
                case "/nick" -> rename(member, rest);
                case "/who" -> who(member.room);
                case "/help" -> "/nick NAME changes your name, /who lists who is here, /help is this. "
                        + "// at the start says a /.";
                default -> "There is no command " + WebSocket.elide(word, 40) + ". Try /help.";
            };
        }

        private String rename(Member member, String wish) {
            String nick = Normalizer.normalize(wish, Normalizer.Form.NFC), old = member.nick;
            if (!NICK.matcher(nick).matches()) return "A name has 1 to 24 letters, digits, - or _.";
            Member holder = nicks.putIfAbsent(key(nick), member);
            if (holder != null && holder != member) return "The name " + nick + " is taken.";
            member.nick = nick;
            if (!key(old).equals(key(nick))) nicks.remove(key(old), member);
            deliver(member.room, notice(old + " is now " + nick + "."));
            return null;
        }

        /// Names that look alike are one: nobody speaks in another's.
        private static String key(String nick) {
            return Normalizer.normalize(nick, Normalizer.Form.NFKC).toLowerCase(Locale.ROOT);
        }

        private String who(String room) {
            Room here = rooms.get(room);
            here.lock.lock();
            try {
                var names = here.members.stream().map(m -> m.nick).sorted().toList();
                return names.size() + " here: " + String.join(", ", names.subList(0,
                        Math.min(MAX_LISTED, names.size()))) + (names.size() > MAX_LISTED
                        ? ", and " + (names.size() - MAX_LISTED) + " more" : "");
            } finally {
                here.lock.unlock();
            }
        }

        private void deliver(String name, WebSocket.Text line) {
            Room room = rooms.get(name);
            if (room == null) return;
            room.lock.lock();
            try {
                tell(room, line);
            } finally {
                room.lock.unlock();
            }
        }

        private static void tell(Room room, WebSocket.Text line) {
            var prepared = new WebSocket.Prepared(line);
            for (Member member : room.members) member.webSocket.send(prepared);
        }

        void share(String redis) { }

        void close() { }
    }

    // ---------------------------------------------------------------------------------------------

    /// The command line.
    record Options(String answer, String host, int httpPort, int wsPort, Set<String> origins,
            int maxMessage, int maxQueue, int maxConnections, int maxPerAddress, SSLContext tls,
            String redis, boolean deflate, boolean trace) {
        static final String USAGE = """
                java Chat.java [options]        serves a chat until it is stopped
                  --host HOST            address to listen at (localhost; 0.0.0.0 for all)
                  --http-port PORT       of the page (8080; 0 for any)
                  --ws-port PORT         of the WebSockets (12345; 0 for any)
                  --origin ORIGIN        another origin whose pages may connect; * for all; repeatable
                  --max-message BYTES    of one message (1048576); more is refused with 1009
                  --max-queue BYTES      waiting for one reader (8388608); with more he is cut off
                  --max-connections N    at a time (10000); more get 503
                  --max-per-address N    from one address, loopback excepted (100); more get 503
                  --keystore FILE        PKCS12 for https and wss; password in CHAT_KEYSTORE_PASSWORD
                  --redis URL            shares the rooms: redis[s]://[user:password@]host[:port][/prefix];
                                         a password may be in CHAT_REDIS_PASSWORD instead
                  --no-deflate           never compresses
                  --trace                shows all that travels, here and in the page
                  --explain [HEX ...]    explains frames, given here or on standard input
                  --help, --version
                Fixed limits: handshake 10 s; request 8 KiB, 100 headers; ping after 25 s of silence, gone
                after 50 s; close 5 s; 10000 rooms; room names 64, names 24 characters.""";
        private static final Map<String, String> DEFAULTS = Map.ofEntries(Map.entry("--host", "localhost"),
                Map.entry("--http-port", "8080"), Map.entry("--ws-port", "12345"), Map.entry("--origin", ""),
                Map.entry("--max-message", "1048576"), Map.entry("--max-queue", "8388608"),
                Map.entry("--max-connections", "10000"), Map.entry("--max-per-address", "100"),
                Map.entry("--keystore", ""), Map.entry("--redis", ""));

        /// @throws IllegalArgumentException with a sentence for whoever typed it
        static Options parse(String... arguments) {
            var values = new HashMap<>(DEFAULTS);
            var flags = new HashSet<String>();
            var origins = new LinkedHashSet<String>();
            String answer = null;
            var left = new ArrayDeque<>(List.of(arguments));
            while (!left.isEmpty()) {
                String[] parts = left.pop().split("=", 2);
                String name = parts[0];
                if (DEFAULTS.containsKey(name)) {
                    if (parts.length == 1 && left.isEmpty())
                        throw new IllegalArgumentException(name + " needs a value");
                    String value = parts.length == 2 ? parts[1] : left.pop();
                    values.put(name, value);
                    if (name.equals("--origin")) origins.add(origin(value));
                } else if (parts.length == 1) switch (name) {
                    case "--no-deflate", "--trace" -> flags.add(name);
                    case "--help" -> answer = USAGE;
                    case "--version" -> answer = "Chat.java " + VERSION + " on Java " + Runtime.version();
                    case "--explain" -> {
                        answer = explain(String.join("", left));
                        left.clear();
                    }
                    default -> throw new IllegalArgumentException("there is no option " + name);
                } else throw new IllegalArgumentException("there is no option " + name + "=");
            }
            return new Options(answer, values.get("--host"), number(values, "--http-port", 0, 65535),
                    number(values, "--ws-port", 0, 65535), origins,
                    number(values, "--max-message", 1, 1 << 30), number(values, "--max-queue", 1, 1 << 30),
                    number(values, "--max-connections", 1, 1 << 24),
                    number(values, "--max-per-address", 1, 1 << 24), tls(values.get("--keystore")),
                    values.get("--redis"), !flags.contains("--no-deflate"), flags.contains("--trace"));
        }

        private static int number(Map<String, String> values, String name, int least, int most) {
            String value = values.get(name);
            if (value.matches("\\d{1,9}|1\\d{9}")) {
                int number = Integer.parseInt(value);
                if (number >= least && number <= most) return number;
            }
            throw new IllegalArgumentException(name + " takes a number from " + least + " to " + most
                    + ", not " + value);
        }

        private static String origin(String value) {
            if (value.equals("*") || value.matches("https?://[^/ ]+")) return value;
            throw new IllegalArgumentException("--origin takes * or something like "
                    + "https://chat.example, not " + value);
        }

        private static SSLContext tls(String file) {
            if (file.isEmpty()) return null;
            String given = System.getenv("CHAT_KEYSTORE_PASSWORD");
            char[] password = given == null ? new char[0] : given.toCharArray();
            try {
                KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
                keys.init(KeyStore.getInstance(new File(file), password), password);
                var context = SSLContext.getInstance("TLS");
                context.init(keys.getKeyManagers(), null, null);
                return context;
            } catch (IOException | GeneralSecurityException wrong) {
                throw new IllegalArgumentException("--keystore " + file + " can't be read ("
                        + wrong.getMessage() + "); the password belongs in CHAT_KEYSTORE_PASSWORD");
            }
        }

        boolean isLoopback() {
            try {
                return InetAddress.getByName(host).isLoopbackAddress();
            } catch (UnknownHostException unknown) {
                return false;
            }
        }

        private static String explain(String hex) {
            try {
                if (hex.isBlank()) hex = new String(System.in.readAllBytes(), US_ASCII);
                return WebSocket.explain(HexFormat.of().parseHex(hex.replaceAll("[\\s:,]|0x", "")));
            } catch (IllegalArgumentException | IOException wrong) {
                throw new IllegalArgumentException("--explain takes bytes in hex, such as 8100");
            }
        }
    }

    // ---------------------------------------------------------------------------------------------

    static final String PAGE = """
            PAGE_GOES_HERE
            """;
}

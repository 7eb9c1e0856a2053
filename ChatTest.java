// The tests of Chat.java, in the order of its parts: ./run.sh test, or ./run.sh test Frames Closing
// for some. At the end stands the load generator of ./run.sh bench.

import com.sun.management.UnixOperatingSystemMXBean;
import com.sun.source.tree.*;
import com.sun.source.util.*;
import java.io.*;
import java.lang.management.ManagementFactory;
import java.lang.reflect.Field;
import java.net.*;
import java.net.http.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.charset.*;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.function.*;
import java.util.regex.*;
import java.util.stream.*;
import java.util.zip.*;
import javax.net.ssl.*;
import javax.tools.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;
import org.junit.platform.engine.*;
import org.junit.platform.engine.discovery.*;
import org.junit.platform.launcher.*;
import org.junit.platform.launcher.core.*;

import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.*;

class ChatTest {
    // ---- Helpers: a server, a client of raw bytes, patience -----------------------------------

    /// RFC 6455's own example (§1.3): a key, and what must be answered.
    static final String KEY = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    /// The header of who asks to be told of arrivals.
    static final String PRESENCE = "Sec-WebSocket-Protocol: presence";
    /// The masking key of the examples in §5.7; `masked` uses it.
    static final byte[] MASKING_KEY = bytes("37 fa 21 3d");
    /// Seconds after which a test gives up. When all is well, nothing waits for so long.
    static final int PATIENCE = 20;

    /// A server on free ports: `try (Chat chat = chat("--max-message=1000")) { … }`
    static Chat chat(String... options) throws Exception {
        return new Chat(new Chat.Options(Stream.concat(Stream.of("--http-port=0", "--ws-port=0"),
                Stream.of(options)).toArray(String[]::new))).start();
    }

    /// Tests which share one server.
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    abstract static class Served {
        private final String[] options;
        Chat chat;

        Served(String... options) { this.options = options; }

        @BeforeAll void start() throws Exception { chat = chat(options); }
        @AfterAll void stop() { chat.close(); }
    }

    /// A port that nobody listens at, and that the system gives to nobody who asks for any.
    static int freePort() {
        while (true) {
            int port = ThreadLocalRandom.current().nextInt(20_000, 32_000);
            try (var probe = new ServerSocket(port, 50, InetAddress.getLoopbackAddress())) {
                return probe.getLocalPort();
            } catch (IOException taken) {
                // try another
            }
        }
    }

    /// `bytes("81 05 48")`: blanks and line ends don't count.
    static byte[] bytes(String hex) { return HexFormat.of().parseHex(hex.replaceAll("\\s", "")); }

    /// `81 05 48`
    static String hex(byte... bytes) { return HexFormat.ofDelimiter(" ").formatHex(bytes); }

    static byte[] join(byte[]... parts) {
        var all = new ByteArrayOutputStream();
        for (byte[] part : parts) all.writeBytes(part);
        return all.toByteArray();
    }

    static byte[] utf8(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    /// A client's frame, complete, its length in the shortest form: `masked(0x81, utf8("Hello"))`.
    static byte[] masked(int first, byte... payload) {
        var frame = ByteBuffer.allocate(payload.length + 14).put((byte) first);
        if (payload.length < 126) frame.put((byte) (0x80 | payload.length));
        else if (payload.length < 65536) frame.put((byte) 0xfe).putShort((short) payload.length);
        else frame.put((byte) 0xff).putLong(payload.length);
        frame.put(MASKING_KEY);
        for (int i = 0; i < payload.length; i++)
            frame.put((byte) (payload[i] ^ MASKING_KEY[i % 4]));
        return Arrays.copyOf(frame.array(), frame.position());
    }

    /// An opening handshake. A given header takes the place of the usual one of that name;
    /// `-Host` leaves it out: `request("/chat", "Sec-WebSocket-Version: 8", "-Host")`.
    static String request(String path, String... headers) {
        var lines = new ArrayList<>(List.of("Host: localhost", "Upgrade: websocket",
                "Connection: Upgrade", "Sec-WebSocket-Key: " + KEY, "Sec-WebSocket-Version: 13"));
        for (String header : headers)
            lines.removeIf(usual -> usual.split(":")[0].equals(
                    header.replaceFirst("^-", "").split(":")[0]));
        Stream.of(headers).filter(header -> !header.startsWith("-")).forEach(lines::add);
        return "GET " + path + " HTTP/1.1\r\n" + String.join("\r\n", lines) + "\r\n\r\n";
    }

    /// Asks again and again until the answer is as expected; fails if that takes very long.
    /// `eventually(0, () -> rooms.size())`
    static <T> void eventually(T expected, Callable<T> actual) throws Exception {
        Instant deadline = Instant.now().plusSeconds(PATIENCE);
        T answer;
        while (!Objects.equals(expected, answer = actual.call())
                && Instant.now().isBefore(deadline)) Thread.sleep(5);
        assertEquals(expected, answer);
    }

    interface Script { void run(Raw raw) throws Exception; }

    /// Runs a script over two new connections: with its writes as they are, and cut at every byte.
    static void bothWays(Chat chat, String path, Script script, String... headers)
            throws Exception {
        for (boolean cut : List.of(false, true))
            try (Raw raw = Raw.open(chat, path, headers)) {
                raw.cut = cut;
                script.run(raw);
            }
    }

    /// /echo answers these bytes (hex) with exactly those, both ways, and stays in order.
    static void assertEcho(Chat chat, String sent, String expected, String... headers)
            throws Exception {
        bothWays(chat, "/echo", raw -> {
            raw.hex(sent);
            assertEquals(hex(bytes(expected)), raw.readHex(bytes(expected).length));
            raw.bye();
        }, headers);
    }

    /// /echo fails the connection with this close code and nothing else, both ways, and no byte
    /// after these is needed for it.
    static void assertFails(Chat chat, int code, String sent, String... headers) throws Exception {
        bothWays(chat, "/echo", raw -> raw.hex(sent).assertClosed(code), headers);
    }

    /// A frame from the server. `first` is its first byte: 0x81 is a whole text message.
    record Frame(int first, byte[] payload) {
        String text() throws CharacterCodingException {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(payload)).toString();
        }

        @Override
        public String toString() {
            return "%02x … %s %s".formatted(first, hex(payload),
                    new String(payload, StandardCharsets.UTF_8));
        }

        /// The close code, 1005 if there is none (§7.1.5).
        int code() { return payload.length == 0 ? 1005 : ByteBuffer.wrap(payload).getChar(); }
    }

    /// What an event tells, or nothing if it only says how somebody is called, or how many are here
    /// though nobody has asked.
    static String sentence(String event) {
        String[] words = event.split(" ", 3);
        String name = words.length < 2 ? "" : words[1], rest = words.length < 3 ? "" : words[2];
        return switch (words[0]) {
            case "you" -> "";
            case "joined", "left" -> {
                assertTrue(rest.matches("\\d+"), event);
                yield " .... " + name + " has " + words[0] + ".";
            }
            case "renamed" -> " .... " + name + " is now " + rest + ".";
            case "said" -> name + ": " + rest;
            case "here" -> {
                int more = Integer.parseInt(name) - rest.split(" ").length;
                yield rest.isEmpty() ? "" : " .... " + name + " here: " + rest.replace(" ", ", ")
                        + (more > 0 ? ", and " + more + " more" : "");
            }
            case "note" -> " .... " + event.substring(5);
            default -> throw new AssertionError("no event: " + event);
        };
    }

    /// A client that sends the bytes it is told to. It answers no ping and no Close by itself.
    ///
    ///     try (Raw ada = Raw.open(chat, "/echo")) {
    ///         ada.hex("81 85 37 fa 21 3d 7f 9f 4d 51 58");            // or ada.text("Hello")
    ///         assertEquals("81 05 48 65 6c 6c 6f", ada.readHex(7));   // or ada.line()
    ///         ada.bye();
    ///     }
    static final class Raw implements AutoCloseable {
        /// Whether events come, and not sentences: see `line`.
        private boolean present;
        /// How many are here, as the last event said.
        volatile int count;
        final Socket socket;
        final InputStream in;
        /// Whether each byte is written alone.
        boolean cut;
        /// The server's answer to the handshake, with the blank line.
        String head;

        /// Connects, and sends nothing yet.
        Raw(int port) throws IOException {
            this(new Socket(InetAddress.getLoopbackAddress(), port));
        }

        Raw(Socket socket) throws IOException {
            this.socket = socket;
            socket.setTcpNoDelay(true);
            socket.setSoTimeout(PATIENCE * 1000);
            in = new BufferedInputStream(socket.getInputStream());
        }

        /// Connects and shakes hands; further headers as with `request`.
        static Raw open(Chat chat, String path, String... headers) throws IOException {
            return new Raw(chat.webSocketPort()).shakeHands(path, headers);
        }

        Raw shakeHands(String path, String... headers) throws IOException {
            head = ascii(request(path, headers)).readHead();
            present = head.contains("\r\n" + PRESENCE + "\r\n");
            assertTrue(head.startsWith("HTTP/1.1 101 "), head);
            assertTrue(head.contains("\r\nSec-WebSocket-Accept: " + ACCEPT + "\r\n"), head);
            return this;
        }

        Raw write(byte... bytes) throws IOException {
            if (cut) return cutAtEveryByte(bytes);
            socket.getOutputStream().write(bytes);
            return this;
        }

        /// Writes byte by byte, each in a packet of its own.
        Raw cutAtEveryByte(byte... bytes) throws IOException {
            for (byte one : bytes) {
                socket.getOutputStream().write(one);
                // so that the server sees this byte alone
                if (bytes.length < 1000) java.util.concurrent.locks.LockSupport.parkNanos(1);
            }
            return this;
        }

        Raw hex(String hex) throws IOException { return write(bytes(hex)); }
        Raw ascii(String text) throws IOException { return write(utf8(text)); }

        /// A masked frame: `frame(0x89, utf8("ping"))`, `frame(0x01, …)`, `frame(0x88)`.
        Raw frame(int first, byte... payload) throws IOException {
            return write(masked(first, payload));
        }

        Raw text(String message) throws IOException { return frame(0x81, utf8(message)); }

        byte[] read(int count) throws IOException {
            byte[] bytes = in.readNBytes(count);
            assertEquals(count, bytes.length, "the end came after " + ChatTest.hex(bytes));
            return bytes;
        }

        String readHex(int count) throws IOException { return ChatTest.hex(read(count)); }

        /// Whatever comes until the server ends the connection.
        String readAll() throws IOException {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }

        /// The head of an HTTP answer, with the blank line.
        String readHead() throws IOException {
            var head = new StringBuilder();
            while (head.indexOf("\r\n\r\n") < 0) head.append((char) read(1)[0]);
            return head.toString();
        }

        /// The next frame. It has no mask (§5.1) and the shortest length form (§5.2).
        Frame frame() throws IOException {
            int first = read(1)[0] & 0xff, form = read(1)[0] & 0xff;
            assertTrue(form < 0x80, "a server must not mask (§5.1)");
            long length = form == 126 ? ByteBuffer.wrap(read(2)).getChar()
                    : form == 127 ? ByteBuffer.wrap(read(8)).getLong() : form;
            assertEquals(length < 126 ? length : length < 65536 ? 126 : 127, form,
                    "the length is not in its shortest form (§5.2)");
            return new Frame(first, read(Math.toIntExact(length)));
        }

        /// The text of the next frame, which must be a whole text message. With the subprotocol
        /// presence, an event, in the words in which a plain client hears it.
        String line() throws IOException {
            Frame frame = frame();
            assertEquals(0x81, frame.first, () -> "not a text message: " + frame);
            if (!present) return frame.text();
            String line = told(frame.text());
            return line.isEmpty() ? line() : line;
        }

        /// The words for an event, or the line of a plain client.
        private String told(String event) {
            if (!present) return event;
            if (event.matches("(joined|left) .*")) count = Integer.parseInt(event.split(" ")[2]);
            if (event.startsWith("here ")) count = Integer.parseInt(event.split(" ")[1]);
            return sentence(event);
        }

        /// Nothing may come before the answer to a ping that is sent now (the server answers in
        /// order). Not in the middle of a frame. Who gets an answer is in his room by then.
        Raw assertNothingMore() throws IOException {
            frame(0x89, utf8("nothing more?"));
            Frame next = frame();
            while (present && next.first == 0x81 && sentence(next.text()).isEmpty()) next = frame();
            Frame frame = next;
            assertEquals(0x8a, frame.first, () -> "unexpected: " + frame);
            assertEquals("nothing more?", frame.text());
            return this;
        }

        /// The next frame must be a Close with this code (1005: none) and a UTF-8 reason, and
        /// then the stream must end: FIN, not reset, and nothing before it.
        /// @return the reason
        String assertClosed(int code) throws IOException {
            Frame frame = frame();
            assertEquals(0x88, frame.first, () -> "not a Close: " + frame);
            assertEquals(code, frame.code(), frame::toString);
            assertTrue(frame.payload.length <= 125, "a control frame has at most 125 bytes (§5.5)");
            assertEnd();
            return code == 1005 ? "" : new Frame(0x88,
                    Arrays.copyOfRange(frame.payload, 2, frame.payload.length)).text();
        }

        /// The server has ended its side (FIN, not reset), and nothing came before that.
        void assertEnd() throws IOException { assertEquals("", ChatTest.hex(in.readAllBytes())); }

        /// Says Close 1000, and nothing may come but its echo and the end.
        void bye() throws IOException {
            hex("88 82 37 fa 21 3d 34 12");
            assertEquals("88 02 03 e8", readHex(4));
            assertEnd();
        }

        /// Tears the connection down with RST, as when a machine crashes.
        void reset() throws IOException {
            socket.setSoLinger(true, 0);
            socket.close();
        }

        /// Ends the connection without a Close frame, as a closed tab may.
        @Override
        public void close() throws IOException { socket.close(); }
    }

    /// Somebody in a room. Being here means that their server has told them something.
    static final class Guest implements AutoCloseable {
        final Raw raw;
        final List<String> heard = new ArrayList<>();
        /// What the others are told of their coming: they say something unless they have `presence`.
        final String arrival;
        String name;
        /// Whether nothing at all may come unexpected, and closing is leaving in order.
        private final boolean exact;

        Guest(int port, String room, String... headers) throws IOException {
            this(new Raw(port).shakeHands("/chat/" + URLEncoder.encode(room,
                    StandardCharsets.UTF_8), headers), false);
            if (raw.present) say("/who");
            String line = raw.present ? "" : " here: ";
            while (!line.contains(" here: ")) line = line();
        }

        Guest(Raw raw, boolean exact) throws IOException {
            this.raw = raw;
            this.exact = exact;
            if (!exact) raw.socket.setSoTimeout(3 * PATIENCE * 1000);
            String word = raw.present ? " has joined." : exact ? ": "
                    : ": I am " + UUID.randomUUID();
            if (!raw.present) say(word.substring(2));
            String line = line();
            while (!exact && !raw.present && !line.endsWith(word)) line = line();
            assertTrue(line.matches((raw.present ? " [.]{4} " : "")
                    + "user-(0|[1-9]\\d{0,4})\\Q" + word), line);
            arrival = line;
            name = line.substring(line.indexOf('u'), line.length() - word.length());
        }

        Guest say(String line) throws IOException { raw.text(line); return this; }

        String line() throws IOException {
            Frame frame = raw.frame();
            for (int i = 0; !exact && frame.first() == 0x89 && i < 3; i++)      // for a minute or so
                frame = raw.frame(0x8a, frame.payload()).frame();
            assertEquals(0x81, frame.first(), frame::toString);
            String line = raw.told(frame.text());
            if (line.isEmpty() && raw.present) return line();
            heard.add(line);
            return line;
        }

        /// Nothing else may come before these.
        Guest hears(String... lines) throws IOException {
            for (String line : lines) assertEquals(line, line());
            return this;
        }

        Guest hearsNothing() throws IOException {
            raw.assertNothingMore();
            return this;
        }

        /// Goes on until all of these have come, in whatever order, whatever else comes.
        void until(String... lines) throws IOException {
            for (var missing = new HashSet<>(List.of(lines)); !missing.isEmpty(); )
                missing.remove(line());
        }

        Guest named(String nick) throws IOException {
            String before = name;
            name = nick;
            return say("/nick " + nick).hears(" .... " + before + " is now " + nick + ".");
        }

        /// Sees soon that these are here.
        Guest sees(String... names) throws Exception {
            eventually(" .... " + names.length + " here: " + Stream.of(names).sorted()
                    .collect(Collectors.joining(", ")), () -> say("/who").line());
            return this;
        }

        void assertAllOf(Guest other, int n) {
            assertEquals(IntStream.range(0, n).mapToObj(i -> other.name + ": " + i).toList(),
                    heard.stream().filter(line -> line.startsWith(other.name + ":")).toList());
        }

        /// Nothing that was said came twice; of notices about servers there were these.
        void assertOnce(String notices) {
            var said = heard.stream().filter(line -> !line.startsWith(" .... ")).toList();
            assertEquals(List.copyOf(new LinkedHashSet<>(said)), said);
            assertEquals(notices, heard.stream().filter(Set.of(Servers.AWAY, Servers.BACK)::contains)
                    .collect(Collectors.joining()));
        }

        /// Leaves in order; when that is over, the room has been told.
        void leave() throws IOException {
            if (raw.socket.isClosed()) return;
            raw.frame(0x88, bytes("03 e8"));
            Frame last = raw.frame();
            while (last.first() == 0x81) last = raw.frame();            // lines that nobody read
            assertEquals("88 03 e8", "%x ".formatted(last.first()) + hex(last.payload()));
            raw.assertEnd();
            raw.close();
        }

        @Override
        public void close() throws IOException {
            if (exact) leave();
            else raw.close();
        }
    }

    /// The JDK's own WebSocket, which else would wait for an answer to its handshake for ever.
    static WebSocket.Builder opening(HttpClient client) {
        return client.newWebSocketBuilder().connectTimeout(Duration.ofSeconds(PATIENCE));
    }

    // ---- Helpers: the project's folder, programs as processes of their own --------------------

    /// The folder of Chat.java: the one in which the tests were started, or one above.
    static final Path FOLDER = Stream.iterate(Path.of("").toAbsolutePath(), Objects::nonNull,
            Path::getParent).filter(f -> Files.exists(f.resolve("Chat.java"))).findFirst()
            .orElseThrow();
    static final String JAVA = Path.of(System.getProperty("java.home"), "bin", "java").toString();

    /// The usual settings, with a log of one's own.
    static Chat.WebSocket.Settings settings(Consumer<String> log) {
        var settings = new Chat.WebSocket.Settings();
        settings.memory = new Chat.WebSocket.Memory(1 << 30);
        settings.log = log;
        return settings;
    }

    /// A new folder, which is deleted when the tests end.
    static Path temporary() throws IOException {
        Path folder = Files.createTempDirectory("chat-test");
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try (Stream<Path> all = Files.walk(folder)) {
                all.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
            } catch (IOException | UncheckedIOException gone) {
                // so it is deleted
            }
        }));
        return folder;
    }

    /// A running process. `try (Program program = Program.chat("--trace")) { … }`
    static final class Program implements AutoCloseable {
        static final Pattern LINE = Pattern.compile("Chat\\.java: open (https?://[^/]+:(\\d+)/) "
                + "\\(WebSockets at (wss?://[^/]+:(\\d+)/)\\)");
        /// Lines that it has written and nobody has taken.
        final BlockingQueue<String> out = new LinkedBlockingQueue<>(),
                err = new LinkedBlockingQueue<>();
        final Process process;
        private final List<Thread> readers;

        Program(Path folder, String... command) throws IOException {
            var builder = new ProcessBuilder(command).directory(folder.toFile());
            builder.environment().keySet().removeAll(
                    Set.of("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"));
            process = builder.start();
            readers = List.of(read(process.inputReader(StandardCharsets.UTF_8), out),
                    read(process.errorReader(StandardCharsets.UTF_8), err));
        }

        private static Thread read(BufferedReader reader, Queue<String> lines) {
            return Thread.startVirtualThread(() -> {
                try (reader) {
                    reader.lines().forEach(lines::add);
                } catch (IOException | UncheckedIOException killed) {
                    // its output ends here
                }
            });
        }

        /// The classes under test; two free ports, unless the options say otherwise.
        static Program chat(String... options) throws Exception {
            return under(List.of(), options);
        }

        /// The same, under `env`, `sh -c` or the like.
        static Program under(List<String> before, String... options) throws Exception {
            return new Program(FOLDER, command(before, List.of(), options));
        }

        /// The same, with flags of the JVM.
        static Program with(List<String> flags, String... options) throws Exception {
            return new Program(FOLDER, command(List.of(), flags, options));
        }

        /// What starts the classes under test.
        static String[] command(List<String> before, List<String> flags, String... options)
                throws Exception {
            var code = Chat.class.getProtectionDomain().getCodeSource().getLocation().toURI();
            return Stream.of(before, List.of(JAVA, "-Dstdout.encoding=UTF-8",
                    "-Dstderr.encoding=UTF-8"), flags, List.of("-cp", Path.of(code).toString(),
                    "Chat", "--http-port=0", "--ws-port=0"), List.of(options))
                    .flatMap(List::stream).toArray(String[]::new);
        }

        /// The next line of `out` or `err`.
        String next(BlockingQueue<String> lines) throws InterruptedException {
            String line = lines.poll(3 * PATIENCE, TimeUnit.SECONDS);
            assertNotNull(line, () -> "no line came; out: " + out + ", err: " + err);
            return line;
        }

        /// What the chat says as soon as it is there: two addresses, and their ports.
        record Ready(String page, int httpPort, String webSockets, int webSocketPort) { }

        Ready ready() throws InterruptedException {
            Matcher line = LINE.matcher(next(out));
            assertTrue(line.matches(), line::toString);
            return new Ready(line.group(1), Integer.parseInt(line.group(2)), line.group(3),
                    Integer.parseInt(line.group(4)));
        }

        /// SIGTERM. (Process.destroy() would also close its streams, whatever is still in them.)
        void terminate() { process.toHandle().destroy(); }

        /// Waits for its end; then `out` and `err` have all that is left.
        int exit() throws InterruptedException {
            assertTrue(process.waitFor(3 * PATIENCE, TimeUnit.SECONDS), "it does not end");
            for (Thread reader : readers) reader.join();
            return process.exitValue();
        }

        @Override
        public void close() {
            process.descendants().forEach(ProcessHandle::destroyForcibly);
            process.destroyForcibly().onExit().join();
        }
    }

    /// Takes what is written on standard error: `try (var stderr = new Stderr()) { … }`
    static final class Stderr implements AutoCloseable {
        private final PrintStream usual = System.err;
        private final ByteArrayOutputStream written = new ByteArrayOutputStream();

        Stderr() { System.setErr(new PrintStream(written, true, StandardCharsets.UTF_8)); }

        /// All until now.
        String text() {
            Chat.WebSocket.Log.flush();
            return written.toString(StandardCharsets.UTF_8);
        }

        @Override
        public void close() {
            Chat.WebSocket.Log.flush();
            System.setErr(usual);
        }
    }

    /// A program for Node in which `WebSocket` is the one of npm's ws; skips a test without them.
    static Program node(String script) throws IOException {
        assumeInstalled("node");
        Path ws = Path.of(System.getProperty("npm", ""), "ws");
        assumeTrue(Files.exists(ws), "npm's ws is not there");
        return new Program(FOLDER, "node", "-e", "const WebSocket = require(process.argv[1]);\n"
                + script, ws.toString());
    }

    // ---- Helpers: what the server holds -------------------------------------------------------

    /// Threads of this JVM, virtual ones too, that run the server's code or serve its page.
    static List<String> serverThreads() throws Exception {
        Path dump = Files.createTempFile("threads", ".txt");
        Files.delete(dump);
        java.lang.management.ManagementFactory.getPlatformMXBean(
                com.sun.management.HotSpotDiagnosticMXBean.class).dumpThreads(dump.toString(),
                com.sun.management.HotSpotDiagnosticMXBean.ThreadDumpFormat.TEXT_PLAIN);
        String[] threads = Files.readString(dump).split("\n(?=#\\d+ \")");
        Files.delete(dump);
        return Stream.of(threads).filter(thread -> Pattern.compile("[(]Chat[.]java:|HTTP-Dispatcher"
                + "|-timeout-task|sun[.]net[.]httpserver").matcher(thread).find()
                && !thread.contains("WebSocket.watch(")                    // one for the program
                && !thread.contains("WebSocket$Log.run(")).toList();
    }

    /// File descriptors that this process has open; 0 where there is no way to know.
    static int openFiles() {
        String[] files = new File("/proc/self/fd").list();
        return files == null ? 0 : files.length;
    }

    /// Bytes that are in use after garbage has been collected.
    static long usedMemory() {
        System.gc();
        return Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
    }

    /// A private field, to look into a server or to let time pass for it.
    static Field field(Class<?> of, String name) {
        try {
            Field field = of.getDeclaredField(name);
            field.setAccessible(true);
            return field;
        } catch (NoSuchFieldException renamed) {
            throw new AssertionError(renamed);
        }
    }

    /// The server's list of rooms.
    static Chat.Rooms rooms(Chat chat) throws Exception {
        return (Chat.Rooms) field(Chat.class, "rooms").get(chat);
    }

    /// Whether nothing is remembered of anyone: no room, no name.
    static boolean isEmpty(Chat.Rooms rooms) throws Exception {
        for (var field : Chat.Rooms.class.getDeclaredFields()) {
            field.setAccessible(true);
            if (field.get(rooms) instanceof Map<?, ?> map && !map.isEmpty()) return false;
        }
        return true;
    }

    /// A certificate for localhost, under the alias chat.
    static void makeKeys(String file, String password, String names, String... more)
            throws Exception {
        var command = new ArrayList<>(List.of(Path.of(JAVA).resolveSibling("keytool").toString(),
                "-genkeypair", "-alias", "chat", "-keyalg", "EC", "-dname", "CN=localhost", "-ext",
                names, "-storetype", "PKCS12", "-storepass", password, "-keystore", file));
        command.addAll(List.of(more));
        assertEquals(0, new ProcessBuilder(command).redirectErrorStream(true).start().waitFor());
    }

    /// An address of this machine besides the loopback ones; skips a test where there is none.
    static InetAddress otherAddress() throws SocketException {
        Optional<InetAddress> other = NetworkInterface.networkInterfaces()
                .flatMap(NetworkInterface::inetAddresses).filter(address ->
                address instanceof Inet4Address && !address.isLoopbackAddress()).findFirst();
        assumeTrue(other.isPresent(), "this machine has no address but the loopback one");
        return other.get();
    }

    /// Skips a test where one of these programs is not installed.
    static void assumeInstalled(String... programs) {
        String[] folders = (System.getenv("PATH") + ":/usr/sbin").split(File.pathSeparator);
        for (String program : programs)
            assumeTrue(Stream.of(folders).anyMatch(folder ->
                    Files.isExecutable(Path.of(folder, program))), program + " is not installed");
    }

    // ---- The opening handshake (RFC 6455 §4) --------------------------------------------------

    @Nested
    @DisplayName("§4 The opening handshake")
    class Handshakes extends Served {
        /// The whole answer to a request that is not accepted: plain HTTP, complete, then the end.
        private String refused(int status, String request) throws IOException {
            return refused(chat, status, request);
        }

        private static String refused(Chat chat, int status, String request) throws IOException {
            try (Raw raw = new Raw(chat.webSocketPort())) {
                raw.write(request.getBytes(StandardCharsets.ISO_8859_1));
                String head = raw.readHead();
                assertTrue(head.lines().findFirst().orElse("").matches(
                        "HTTP/1\\.1 " + status + " [A-Z][A-Za-z ]+"), request + head);
                String body = raw.readAll();
                assertTrue(header(head, "Connection").contains("close"), head);
                assertEquals("text/plain; charset=utf-8", header(head, "Content-Type"));
                assertEquals(utf8(body).length, Integer.parseInt(header(head, "Content-Length")));
                assertTrue(body.length() > 20, "no readable body: " + body);
                assertNull(header(head, "Sec-WebSocket-Accept"));
                return head + body;
            }
        }

        /// The value of a header, several of one name joined to a list; null if there is none.
        private static String header(String head, String name) {
            return head.lines().filter(line -> line.startsWith(name + ": "))
                    .map(line -> line.substring(name.length() + 2))
                    .reduce((a, b) -> a + ", " + b).orElse(null);
        }

        private String accepted(String request) throws IOException {
            try (Raw raw = new Raw(chat.webSocketPort()).ascii(request)) {
                String head = raw.readHead();
                assertTrue(head.startsWith("HTTP/1.1 101 "), request + head);
                raw.bye();
                return head;
            }
        }

        @Test
        @DisplayName("§1.3, §4.2.2 the RFC's sample key gets the RFC's answer, and not a byte more")
        void theSampleKeyGetsTheSampleAnswer() throws Exception {
            assertEquals("""
                    HTTP/1.1 101 Switching Protocols
                    Upgrade: websocket
                    Connection: Upgrade
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=

                    """.replace("\n", "\r\n"), accepted(request("/echo")));
        }

        @ParameterizedTest
        @DisplayName("§1.3, §4.2.2 the accept value is made of the key's text, its blanks trimmed")
        @CsvSource({"AQIDBAUGBwgJCgsMDQ4PEA==, C/0nmHhBztSRGR1CwL6Tf4ZjwpY=",
            "AQIDBAUGBwgJCgsMDQ4PEC==, OfS0wDaT5NoxF2gqm7Zj2YtetzM=",      // erratum 3150
            "/////////////////////w==, XXpj4jYzLM2yUE0C7TIgMwTQh2g=",
            "'  \t dGhlIHNhbXBsZSBub25jZQ== \t ', s3pPLMBiTxaQ9kYGzzhZRbK+xOo="})
        void theAcceptValueIsMadeOfTheKeysText(String key, String accept) throws Exception {
            String head = accepted(request("/echo", "Sec-WebSocket-Key:" + key));
            assertEquals(accept, header(head, "Sec-WebSocket-Accept"));
        }

        @ParameterizedTest
        @DisplayName("§4.2.1 what may vary in a request, varies")
        @ValueSource(strings = {
            "GET /echo HTTP/1.2|Host: a|Upgrade: websocket|Connection: Upgrade",
            "GET http://a/echo HTTP/1.1|Host: a|Upgrade: websocket|Connection: Upgrade",
            "GET /echo?room=1&x=%23 HTTP/1.1|Host: a|Upgrade: websocket|Connection: Upgrade",
            "GET /echo HTTP/1.1|Connection: keep-alive, Upgrade|Upgrade: websocket|Host: a:1",
            "GET /echo HTTP/1.1|HOST:127.0.0.1|upgrade:WebSocket|connection:UPGRADE",
            "GET /echo HTTP/1.1|Host: [::1]:80|Upgrade: h2c ,websocket|Connection:\t,b , upgrade\t",
            "GET /echo HTTP/1.1|Host: a|Upgrade: websocket|Connection: b|Connection: Upgrade",
            "GET /echo HTTP/1.1|X:\u00e9 \"a;|Y:|Host: a|Upgrade: websocket|Connection: Upgrade"})
        void whatMayVaryVaries(String start) throws Exception {
            String request = start.replaceAll("\\ba\\b", "localhost").replace("|", "\r\n");
            accepted(request + "\r\nsec-websocket-key: " + KEY
                    + "\r\nSEC-WEBSOCKET-VERSION: 13\r\n\r\n");
        }

        @ParameterizedTest
        @DisplayName("§4.2.1, RFC 9112 §2–§5 what is not HTTP/1.1 in its strict grammar is 400")
        @ValueSource(strings = {"", "GET", "GET /echo", "GET  /echo HTTP/1.1",
            "GET /echo  HTTP/1.1", " GET /echo HTTP/1.1", "GET /echo HTTP/1.1 ",
            "GET\t/echo HTTP/1.1", "GET /echo HTTP/1.0", "GET /echo HTTP/0.9", "GET /echo http/1.1",
            "GET /echo HTTP/1", "GET /echo HTTP/1.1.1",
            "GET echo HTTP/1.1", "GET ?x HTTP/1.1", "GET /ec ho HTTP/1.1", "GET /echo#x HTTP/1.1",
            "GET /\u00e9 HTTP/1.1", "GET /\u0000 HTTP/1.1", "G(T /echo HTTP/1.1",
            "GET ftp://localhost/echo HTTP/1.1",
            "GET /echo HTTP/1.1\r\nX: 1\r\n 2", "GET /echo HTTP/1.1\r\nX: 1\r\n\t2", // folded
            "GET /echo HTTP/1.1\r\n X: 1", "GET /echo HTTP/1.1\r\nX : 1",
            "GET /echo HTTP/1.1\r\nX", "GET /echo HTTP/1.1\r\n: 1", "GET /echo HTTP/1.1\r\nX Y: 1",
            "GET /echo HTTP/1.1\r\nX\u00e9: 1", "GET /echo HTTP/1.1\r\nX(: 1",
            "GET /echo HTTP/1.1\nX: 1", "GET /echo HTTP/1.1\r\nX: 1\nY: 2",          // bare LF
            "GET /echo HTTP/1.1\rX: 1", "GET /echo HTTP/1.1\r\nX: 1\rY: 2",          // bare CR
            "GET /echo HTTP/1.1\r\nX: 1\r\r", "GET /echo HTTP/1.1\r\nX: \u0000",
            "GET /echo HTTP/1.1\r\nX: \u0007", "GET /echo HTTP/1.1\r\nX: \u007f"})
        void whatIsNotHttpIs400(String start) throws Exception {
            refused(400, request("/echo").replace("GET /echo HTTP/1.1", start));
        }

        @Test
        @DisplayName("§4.2.1 a handshake has no body: whose would the bytes be that follow it?")
        void aHandshakeHasNoBody() throws Exception {
            refused(400, request("/echo", "Content-Length: 5") + "Hello");
            refused(400, request("/echo", "Transfer-Encoding: chunked") + "0\r\n\r\n");
        }

        @Test
        @DisplayName("§4.2.1 the method is GET: any other is 405 and told so")
        void theMethodIsGet() throws Exception {
            for (String method : List.of("POST", "HEAD", "PUT", "OPTIONS", "get"))
                assertEquals("GET", header(refused(405, request("/echo").replace("GET", method)),
                        "Allow"));
        }

        @ParameterizedTest
        @DisplayName("§4.2.1 (2), RFC 9112 §3.2 exactly one valid Host")
        @ValueSource(strings = {"-Host", "Host:", "Host: local host", "Host: localhost,localhost",
            "Host: localhost\r\nHost: localhost", "Host: me@localhost", "Host: localhost:x",
            "Host: localhost/", "Host: localhost:123456", "Host: [::1", "Host: \u00e9"})
        void exactlyOneValidHost(String host) throws Exception { refused(400, request("/", host)); }

        @Test
        @DisplayName("§4.2.1 (3) who came without Upgrade: websocket is told where the page is")
        void withoutUpgradeTheAnswerHelps() throws Exception {
            for (String upgrade : List.of("-Upgrade", "Upgrade:", "Upgrade: h2c",
                    "Upgrade: web socket", "Upgrade: websockets", "Upgrade: \"websocket\"")) {
                String answer = refused(426, request("/chat", upgrade));
                assertEquals("websocket", header(answer, "Upgrade"));
                assertTrue(answer.contains("http://localhost:" + chat.httpPort() + "/"), answer);
            }
        }

        @Test
        @DisplayName("§4.2.1 (4) Connection holds the token Upgrade")
        void connectionHoldsTheTokenUpgrade() throws Exception {
            for (String connection : List.of("-Connection", "Connection:",
                    "Connection: keep-alive", "Connection: Upgrades",
                    "Connection: keep-alive Upgrade", "Connection: x-Upgrade"))
                refused(400, request("/echo", connection));
        }

        @ParameterizedTest
        @DisplayName("§4.2.1 (5), §11.3.1 exactly one key of 16 bytes")
        @ValueSource(strings = {"", "x",
            "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ=",        // no padding, half of it
            "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZTE=",         // 15 and 17 bytes
            "dGhlIHNhbXBsZSBub25jZTEy", "dGhlIHNhbXBsZSBub25jZ=Q=",     // 18 bytes, nonsense
            "dGhlIHNhbXBs SBub25jZQ==", "-_hlIHNhbXBsZSBub25jZQ==",     // a blank; URLs' alphabet
            "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="})
        void exactlyOneKeyOf16Bytes(String key) throws Exception {
            refused(400, request("/echo", "Sec-WebSocket-Key: " + key));
            refused(400, request("/echo", "-Sec-WebSocket-Key"));
        }

        @ParameterizedTest
        @DisplayName("§4.2.1 (6), §4.4 another version than 13 is told which one is spoken")
        @ValueSource(strings = {"0", "7", "8", "12", "14", "130", "255"})
        void anotherVersionIsTold(String version) throws Exception {
            String answer = refused(426, request("/echo", "Sec-WebSocket-Version: " + version));
            assertEquals("13", header(answer, "Sec-WebSocket-Version"));
            assertEquals("websocket", header(answer, "Upgrade"));
            assertTrue(header(answer, "Connection").contains("Upgrade"), answer);
        }

        @Test
        @DisplayName("§4.2.1 (6), §11.3.5 the version header stands there once")
        void theVersionStandsThereOnce() throws Exception {
            String header = "Sec-WebSocket-Version: ";
            refused(400, request("/echo", "-Sec-WebSocket-Version"));
            refused(400, request("/echo", header + "13", header + "13"));
            refused(400, request("/echo", header + "13", header + "8"));
        }

        @ParameterizedTest
        @DisplayName("§4.2.2 an unknown resource is 404")
        @ValueSource(strings = {"/ech", "/echo/", "/echo/x", "/Echo", "/chat/", "/chat/a/b",
            "/chat/a%2Fb", "/chat/..", "/chat/%2e%2e", "//", "//chat", "/trace", "/index.html",
            "/chat/a%20b", "/chat/%ff", "/chat/%", "/chat/%4", "/chat/%zz"})
        void anUnknownResourceIs404(String path) throws Exception {
            refused(404, request(path));
        }

        @ParameterizedTest
        @DisplayName("§4.2.2, §10.2 a page of another origin is kept out before the 101")
        @ValueSource(strings = {"http://evil.example", "null", "", "http://localhost",
            "https://localhost:%d", "http://localhost:1", "http://localhost.evil:%d",
            "http://evil.localhost:%d", "http://localhost:%d.evil", "http://localhost:%d/",
            "http://localhost:%d@evil", "localhost:%d", "http://127.0.0.1:%d",
            "http://localhost:%1$d http://localhost:%1$d",
            "http://localhost:%1$d\r\nOrigin: http://localhost:%1$d",
            "http://localhost:%d\r\nOrigin: http://evil.example", "http://\u00e9:%d", "%%00"})
        void aPageOfAnotherOriginIsKeptOut(String origin) throws Exception {
            String answer = refused(403, request("/chat", "Origin: "
                    + origin.formatted(chat.httpPort())));
            assertTrue(answer.contains("--origin"), answer);
        }

        @Test
        @DisplayName("§4.2.1 (7), §10.2 the own page and clients without a page are let in")
        void theOwnPageIsLetIn() throws Exception {
            accepted(request("/chat", "Origin: http://localhost:" + chat.httpPort()));
            accepted(request("/chat", "Host: 127.0.0.1:" + chat.webSocketPort(),
                    "Origin: http://127.0.0.1:" + chat.httpPort()));
            accepted(request("/chat"));
            try (Chat open = chat("--origin=https://a.example",
                    "--origin=https://b.example:8443")) {
                for (String origin : List.of("https://a.example", "https://b.example:8443"))
                    Raw.open(open, "/chat", "Origin: " + origin).close();
                refused(open, 403, request("/chat", "Origin: https://b.example"));
                refused(open, 403, request("/chat", "Origin: http://a.example"));
            }
            try (Chat open = chat("--origin=*")) {
                for (String origin : List.of("https://a.example", "null"))
                    Raw.open(open, "/chat", "Origin: " + origin).close();
            }
        }

        @Test
        @DisplayName("§10.2 a foreign name for this machine is not answered to (DNS rebinding)")
        void aForeignNameIsNotAnsweredTo() throws Exception {
            for (String host : List.of("evil.example", "localhost.evil", "127.0.0.1.evil"))
                refused(403, request("/chat", "Host: " + host,
                        "Origin: http://" + host + ":" + chat.httpPort()));
        }

        @ParameterizedTest
        @DisplayName("§1.9, §4.2.2, §11.3.4 the first known subprotocol is selected, else none")
        @CsvSource(delimiter = '|', value = {"/chat | presence | presence",
            "/ | presence | presence", "/chat/x | foo, presence,bar | presence",
            "/chat | foo,, presence , | presence",
            "/chat | foo~Sec-WebSocket-Protocol: presence | presence", "/chat | foo, bar |",
            "/chat | Presence |", "/chat | presence2 |", "/echo | presence |", "/chat | '' |"})
        void theFirstKnownSubprotocolIsSelected(String path, String offer, String selected)
                throws Exception {
            try (Raw raw = Raw.open(chat, path, "Sec-WebSocket-Protocol: "
                    + offer.replace("~", "\r\n"))) {
                assertEquals(selected, header(raw.head, "Sec-WebSocket-Protocol"));
            }
        }

        @ParameterizedTest
        @DisplayName("§4.1, §11.3.4 a subprotocol is a token; another is refused and never echoed")
        @ValueSource(strings = {"pres ence", "presence; x", "\"presence\"", "pr\u00e9sence",
            "presence/1", "presence, (evil)", "presence\r\nSec-WebSocket-Protocol: e\u00e9vil"})
        void aSubprotocolIsAToken(String offer) throws Exception {
            String answer = refused(400, request("/chat", "Sec-WebSocket-Protocol: " + offer));
            assertNull(header(answer, "Sec-WebSocket-Protocol"));
        }

        @ParameterizedTest
        @DisplayName("§9.1 extensions that are not a list of names and parameters are 400")
        @ValueSource(strings = {"permessage-deflate; =5", "permessage-deflate; x=", "; x",
            "=", "a b",
            "permessage-deflate; x y", "permessage-deflate; x=\"a b\"", "permessage-deflate; x=\"",
            "a=1",
            "permessage-deflate; x=\"\"", "permessage-deflate; x==1", "permessage-deflate;", "a;;b",
            "permessage-deflate; x=1=2", "permessage-d\u00e9flate", "(a)", "a, b;, c",
            "a\r\nSec-WebSocket-Extensions: ;b"})
        void extensionsThatAreNoListAre400(String offer) throws Exception {
            refused(400, request("/echo", "Sec-WebSocket-Extensions: " + offer));
        }

        @ParameterizedTest
        @DisplayName("§9.1, §4.2.2 extensions that are only unknown are passed over")
        @ValueSource(strings = {"foo", "foo; bar", "foo; bar=1; baz=\"2\"",
            "constructor, __proto__; x", "x-webkit-deflate-frame", "foo,bar ,\tbaz;a = 1",
            "foo, ,bar", "foo\r\nSec-WebSocket-Extensions: bar", "", "foo; bar; bar"})
        void extensionsThatAreUnknownArePassedOver(String offer) throws Exception {
            String head = accepted(request("/echo", "Sec-WebSocket-Extensions: " + offer));
            assertNull(header(head, "Sec-WebSocket-Extensions"));
        }

        @Test
        @DisplayName("§9.1 a quoted value counts without its quotes and backslashes")
        void aQuotedValueCountsWithoutItsQuotes() throws Exception {
            String bits = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=";
            for (String value : List.of("15", "\"15\"", "\"1\\5\""))
                assertTrue(accepted(request("/echo", bits + value)).contains("window_bits=15\r\n"));
            refused(400, request("/echo", bits + "\"1 5\""));
        }

        @Test
        @DisplayName("§11.3.2 several Sec-WebSocket-Extensions lines are one list")
        void severalExtensionsLinesAreOneList() throws Exception {
            String head = accepted(request("/echo", "Sec-WebSocket-Extensions: foo",
                    "Sec-WebSocket-Extensions: permessage-deflate; bar",
                    "sec-websocket-extensions: permessage-deflate"));
            assertEquals("permessage-deflate; server_no_context_takeover; "
                    + "client_no_context_takeover", header(head, "Sec-WebSocket-Extensions"));
        }

        @Test
        @DisplayName("§4.1, §4.2.2 bytes that come with the handshake are the first frame's")
        void bytesThatComeWithTheHandshakeAreTheFirstFrames() throws Exception {
            byte[] all = join(utf8(request("/echo")), bytes("81 85 37 fa 21 3d 7f 9f 4d 51 58 89"));
            for (boolean cut : List.of(false, true))
                try (Raw raw = new Raw(chat.webSocketPort())) {
                    raw.cut = cut;
                    raw.write(all);
                    assertTrue(raw.readHead().startsWith("HTTP/1.1 101 "));
                    assertEquals("Hello", raw.line());
                    raw.hex("80 37 fa 21 3d");
                    assertEquals("8a 00", raw.readHex(2));
                    raw.bye();
                }
        }

        @Test
        @DisplayName("§4.2.2 with the 101 the connection is open: the server may speak first")
        void theServerMaySpeakFirst() throws Exception {
            try (Raw raw = Raw.open(chat, "/chat/first", PRESENCE)) {
                assertTrue(raw.line().matches(" \\.\\.\\.\\. user-\\d{1,5} has joined\\."));
                raw.bye();
            }
        }

        @Test
        @DisplayName("§4.2.2, §5.1, §10.6 over TLS all is the same; without it nothing is answered")
        void overTlsAllIsTheSame() throws Exception {
            Path file = Files.createTempDirectory("chat").resolve("keys");
            char[] password = "changeit".toCharArray();
            assertEquals(0, new ProcessBuilder(System.getProperty("java.home") + "/bin/keytool",
                    "-genkeypair", "-alias", "a", "-keyalg", "EC", "-dname", "CN=localhost",
                    "-storetype", "PKCS12", "-storepass", "changeit", "-keystore", "" + file)
                    .redirectErrorStream(true).start().waitFor());
            var keys = java.security.KeyStore.getInstance(file.toFile(), password);
            var own = javax.net.ssl.KeyManagerFactory.getInstance("PKIX");
            own.init(keys, password);
            var trusted = java.security.KeyStore.getInstance("PKCS12");
            trusted.load(null, null);
            trusted.setCertificateEntry("a", keys.getCertificate("a"));
            var trust = javax.net.ssl.TrustManagerFactory.getInstance("PKIX");
            trust.init(trusted);
            var tls = javax.net.ssl.SSLContext.getInstance("TLS");
            tls.init(own.getKeyManagers(), trust.getTrustManagers(), null);
            var settings = settings(line -> { });
            settings.tls = tls;
            try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
                for (boolean secure : List.of(true, false)) {
                    int port = listener.getLocalPort();
                    var client = secure ? tls.getSocketFactory().createSocket("localhost", port)
                            : new Socket("localhost", port);
                    Socket socket = listener.accept();
                    Thread.startVirtualThread(() -> new Chat.WebSocket(socket, settings).serve(
                            handshake -> List.of(), webSocket -> {
                        while (webSocket.receive() instanceof Chat.WebSocket.Message message)
                            webSocket.send(message);
                    }));
                    try (Raw raw = new Raw(client)) {
                        if (secure) {
                            raw.shakeHands("/").text("Hello");
                            assertEquals("81 05 48 65 6c 6c 6f", raw.readHex(7));
                            raw.hex("81 05").assertClosed(1002);
                        } else assertFalse(raw.ascii(request("/")).readAll().contains("HTTP"));
                    }
                }
            }
        }

        @Test
        @DisplayName("§7.2.2 a handshake that failed ends in HTTP: what follows is no frame")
        void aFailedHandshakeEndsInHttp() throws Exception {
            refused(404, request("/nowhere") + "\u0081\u0085\u0037\u00fa\u0021\u003d\u007f\u009f"
                    + "MQX" + request("/echo"));
        }

        @Test
        @DisplayName("RFC 9112 §3.2.2, §6.1 a target with a host: Host is ignored; no body is no body")
        void theHostOfTheTargetCounts() throws Exception {
            accepted(request("http://localhost/echo", "Host: evil.example"));
            refused(400, request("http://localhost/echo", "-Host"));
            refused(400, request("http://localhost/echo", "Host: localhost", "Host: localhost"));
            refused(403, request("http://evil.example/echo"));
            accepted(request("/echo", "Content-Length: 0"));
            refused(400, request("/echo", "Content-Length: 1"));
        }

        @Test
        @DisplayName("RFC 6585 §5 a head of over 16 KiB or 100 headers is 431, however it grows")
        void aHeadTooLargeIs431() throws Exception {
            String[] many = IntStream.range(5, 100).mapToObj(i -> "X-" + i + ": " + i)
                    .toArray(String[]::new);
            accepted(request("/echo", many));
            refused(431, request("/echo", Stream.concat(Stream.of("Y: 1"), Stream.of(many))
                    .toArray(String[]::new)));
            accepted(request("/echo", "X: " + "x".repeat(15_900)));
            refused(431, request("/echo", "X: " + "x".repeat(16_384)));
            refused(431, request("/" + "x".repeat(16_384)));
            refused(431, "x".repeat(17_000));                       // no line end will ever come
            refused(431, "GET / HTTP/1.1\r\n" + "X: 1\r\n".repeat(5000));
        }

        @Test
        @DisplayName("§9.1, §10.1 lists as long as a head may be are read as any other")
        void longListsAreReadAsAnyOther() throws Exception {
            for (String name : List.of("Sec-WebSocket-Protocol: ", "Sec-WebSocket-Extensions: ")) {
                accepted(request("/echo", name + "a,".repeat(3500) + "b"));
                accepted(request("/echo", name + ",".repeat(7000) + "b"));
                accepted(request("/echo", name + "b" + " ".repeat(7000)));
                refused(400, request("/echo", name + "a,".repeat(3500) + "="));
            }
            String name = "Sec-WebSocket-Extensions: ";
            accepted(request("/echo", name + "a;".repeat(3500) + "b"));
            accepted(request("/echo", name + "a" + ";b=1".repeat(1500)));
            refused(400, request("/echo", name + "a;".repeat(3500) + "="));
            refused(400, request("/echo", name + "a;b=" + "\"".repeat(7000)));
            refused(400, request("/echo", name + "a" + " ;".repeat(3500)));
        }

        @Test
        @DisplayName("§10.1 nothing a client wrote gets into a header of the answer")
        void nothingAClientWroteGetsIntoAHeader() throws Exception {
            for (String evil : List.of("/evil%0d%0aX:%20evil", "/evil?\u00e9vil", "/evil"))
                for (String name : List.of("Origin", "Host", "Upgrade", "Connection", "X-Evil",
                        "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions",
                        "Sec-WebSocket-Version"))
                    try (Raw raw = new Raw(chat.webSocketPort())) {
                        raw.write(request(evil, name + ": evil%0d%0aX: \u00e9vil\u0085X: evil")
                                .getBytes(StandardCharsets.ISO_8859_1));
                        String head = raw.readHead();
                        assertTrue(head.startsWith("HTTP/1.1 4"), head);
                        assertFalse(head.contains("vil"), head);
                        assertTrue(head.chars().allMatch(c -> c < 127), head);
                    }
        }
    }

    // ---- Frames (RFC 6455 §5) -----------------------------------------------------------------

    @Nested
    @DisplayName("§5 Frames")
    class Frames extends Served {
        private void echoes(String sent, String expected) throws Exception {
            assertEcho(chat, sent, expected);
        }

        private void fails(int code, String sent) throws Exception {
            assertFails(chat, code, sent);
        }

        @Test
        @DisplayName("§5.7 the RFC's masked Hello comes back as its unmasked one")
        void theRfcsMaskedHelloComesBackUnmasked() throws Exception {
            echoes("81 85 37 fa 21 3d 7f 9f 4d 51 58", "81 05 48 65 6c 6c 6f");
        }

        @Test
        @DisplayName("§5.7 the RFC's fragmented Hello is one message")
        void theRfcsFragmentedHelloIsOneMessage() throws Exception {
            echoes("01 83 37 fa 21 3d 7f 9f 4d 80 82 37 fa 21 3d 5b 95", "81 05 48 65 6c 6c 6f");
        }

        @ParameterizedTest
        @DisplayName("§5.2, §5.7 every length comes back in its shortest form, as text and binary")
        @CsvSource({"0, 00", "1, 01", "125, 7d", "126, 7e 00 7e", "127, 7e 00 7f", "256, 7e 01 00",
            "65535, 7e ff ff", "65536, 7f 00 00 00 00 00 01 00 00",
            "65537, 7f 00 00 00 00 00 01 00 01"})
        void everyLengthComesBackInItsShortestForm(int size, String form) throws Exception {
            byte[] payload = new byte[size];
            for (int i = 0; i < size; i++) payload[i] = (byte) ('a' + i % 23);
            for (String first : List.of("81", "82"))
                bothWays(chat, "/echo", raw -> {
                    raw.frame(Integer.parseInt(first, 16), payload);
                    assertEquals(first + " " + form, raw.readHex(1 + bytes(form).length));
                    assertArrayEquals(payload, raw.read(size));
                    raw.bye();
                });
        }

        @Test
        @DisplayName("§5.1 a frame without a mask fails the connection, and is not delivered first")
        void aFrameWithoutAMaskFails() throws Exception {
            fails(1002, "81 05 48 65 6c 6c 6f");
            for (String start : List.of("81 05", "82 00", "81 7e", "82 7f", "01 01", "89 00",
                    "88 02", "8a 00"))
                fails(1002, start);
            fails(1002, "01 81 37 fa 21 3d 7f 80 00");
            try (Raw ada = Raw.open(chat, "/chat/masks").assertNothingMore();
                    Raw eve = Raw.open(chat, "/chat/masks")) {
                eve.hex("81 05 48 65 6c 6c 6f").assertClosed(1002);
                assertTrue(ada.line().endsWith(" has left."));
                ada.assertNothingMore();
            }
        }

        @ParameterizedTest
        @DisplayName("§5.2 a reserved bit about which nothing was agreed fails the connection")
        @ValueSource(strings = {"91 80", "a1 80", "c1 80", "b1 80", "f1 80", "92 80", "a2 80",
            "c2 80", "41 80", "98 80", "a8 80", "c8 80", "99 80", "a9 80", "c9 80", "9a 80",
            "aa 80", "ca 80"})
        void aReservedBitFails(String start) throws Exception {
            fails(1002, start);
            fails(1002, "01 80 37 fa 21 3d" + start);
        }

        @Test
        @DisplayName("§5.2 a reserved bit on a continuation fails the connection")
        void aReservedBitOnAContinuationFails() throws Exception {
            for (String start : List.of("90 80", "a0 80", "c0 80", "40 80", "f0 80"))
                fails(1002, "01 80 37 fa 21 3d" + start);
        }

        @ParameterizedTest
        @DisplayName("§5.2 an opcode without a meaning fails the connection, whatever follows")
        @ValueSource(ints = {3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf})
        void anUnknownOpcodeFails(int opcode) throws Exception {
            fails(1002, "8%x 80".formatted(opcode));
            fails(1002, "0%x 85 37 fa 21 3d 7f".formatted(opcode));
            fails(1002, "8%x ff 7f ff ff ff ff ff ff ff".formatted(opcode));
            fails(1002, "01 80 37 fa 21 3d 8%x 80".formatted(opcode));
        }

        @Test
        @DisplayName("§5.2 the highest bit of a 64-bit length is 0")
        void theHighestBitOfALengthIs0() throws Exception {
            for (String length : List.of("80 00 00 00 00 00 00 00", "80 00 00 00 00 01 00 00",
                    "ff ff ff ff ff ff ff ff"))
                fails(1002, "82 ff " + length);
        }

        @Test
        @DisplayName("§5.2 a length that is not in its shortest form fails the connection")
        void aLengthNotInItsShortestFormFails() throws Exception {
            for (String lengths : List.of("fe 00 00", "fe 00 05", "fe 00 7d",
                    "ff 00 00 00 00 00 00 00 00", "ff 00 00 00 00 00 00 00 05",
                    "ff 00 00 00 00 00 00 00 7e", "ff 00 00 00 00 00 00 ff ff"))
                for (String first : List.of("81", "02")) fails(1002, first + lengths);
            fails(1002, "01 80 37 fa 21 3d 80 fe 00 05");
        }

        @ParameterizedTest
        @DisplayName("§10.4 a length beyond the limit is 1009, seen from the header alone")
        @ValueSource(strings = {"00 00 00 00 00 10 00 01", "00 00 00 00 7f ff ff ff",
            "00 00 00 00 80 00 00 00", "00 00 00 00 ff ff ff ff", "00 00 00 01 00 00 00 00",
            "00 00 00 01 00 00 00 05", "10 00 00 00 00 00 00 00", "7f ff ff ff ff ff ff f0",
            "7f ff ff ff ff ff ff ff"})
        void aLengthBeyondTheLimitIs1009(String length) throws Exception {
            String mask = "37 fa 21 3d";
            for (String first : List.of("81", "82", "01", "02"))
                fails(1009, first + "ff" + length + mask);
            fails(1009, "02 81" + mask + "00" + "80 ff" + length + mask);     // no sum may overflow
            fails(1009, "02 81" + mask + "00" + "00 ff" + length + mask);
        }

        @Test
        @DisplayName("§10.4 the limit is the message's, in one frame or many")
        void theLimitIsTheMessages() throws Exception {
            String five = "85 37 fa 21 3d 7f 9f 4d 51 58", none = "80 37 fa 21 3d";
            String hello = "48 65 6c 6c 6f";
            try (Chat small = chat("--max-message=10")) {
                assertEcho(small, "82 8a 00 00 00 00" + hello + hello, "82 0a" + hello + hello);
                assertFails(small, 1009, "82 8b 37 fa 21 3d");
                assertFails(small, 1009, "82 fe 00 7e 37 fa 21 3d");
                assertEcho(small, "01" + five + "80" + five + "81" + five,
                        "81 0a" + hello + hello + "81 05" + hello);
                assertFails(small, 1009, "01" + five + "00" + five + "80 81 37 fa 21 3d");
                assertEcho(small, "01" + five + "00" + five + "00" + none + "80" + none,
                        "81 0a" + hello + hello);
                // Control frames have a limit of their own and are not charged to the message.
                String payload = "70".repeat(125);
                String ping = "89 fd 00 00 00 00" + payload, pong = "8a 7d" + payload;
                assertEcho(small, ping + "01" + five + "00" + five + ping + "80" + none,
                        pong + pong + "81 0a" + hello + hello);
            }
        }

        @Test
        @DisplayName("§5.3 any key unmasks, at any length, and starts anew with each frame")
        void anyKeyUnmasksAtAnyLength() throws Exception {
            var random = new Random(53);
            List<byte[]> keys = new ArrayList<>(List.of(bytes("00 00 00 00"), bytes("ff ff ff ff"),
                    bytes("01 02 03 04"), bytes("80 00 00 00"), bytes("00 00 00 80")));
            for (int i = 0; i < 5; i++) keys.add(bytes("%08x".formatted(random.nextInt())));
            for (boolean cut : List.of(false, true))
                try (Raw raw = Raw.open(chat, "/echo")) {
                    raw.cut = cut;
                    for (byte[] key : keys)
                        for (int size = 0; size < 34; size++) {
                            byte[] payload = new byte[size], sent = new byte[size];
                            random.nextBytes(payload);
                            for (int i = 0; i < size; i++)
                                sent[i] = (byte) (payload[i] ^ key[i % 4]);
                            int half = size / 2;        // the same, whole and in two frames
                            raw.write(join(bytes("82 %02x".formatted(0x80 | size)), key, sent,
                                    masked(0x02, Arrays.copyOf(payload, half)),
                                    masked(0x80, Arrays.copyOfRange(payload, half, size))));
                            assertEquals(hex(payload), hex(raw.frame().payload()));
                            assertEquals(hex(payload), hex(raw.frame().payload()));
                        }
                    raw.bye();
                }
        }

        @Test
        @DisplayName("§5.4 a message is the same however it is cut into fragments, empty ones too")
        void aMessageIsTheSameHoweverItIsCut() throws Exception {
            byte[] hello = utf8("Hello");
            for (int opcode : new int[] {1, 2})
                for (int a = 0; a <= 5; a++)
                    for (int b = a; b <= 5; b++)
                        for (int c = b; c <= 5; c++) {
                            String fragments = hex(join(
                                    masked(opcode, Arrays.copyOf(hello, a)),
                                    masked(0x00, Arrays.copyOfRange(hello, a, b)),
                                    masked(0x00, Arrays.copyOfRange(hello, b, c)),
                                    masked(0x80, Arrays.copyOfRange(hello, c, 5))));
                            echoes(fragments, "8%d 05 48 65 6c 6c 6f".formatted(opcode));
                        }
            echoes("01 80 37 fa 21 3d 80 80 37 fa 21 3d", "81 00");
            echoes("02 80 37 fa 21 3d 00 80 37 fa 21 3d 80 80 37 fa 21 3d", "82 00");
        }

        @Test
        @DisplayName("§5.4 a control frame between fragments is answered before the rest has come")
        void aControlFrameBetweenFragmentsIsAnswered() throws Exception {
            bothWays(chat, "/echo", raw -> {
                raw.hex("01 83 37 fa 21 3d 7f 9f 4d" + "89 85 37 fa 21 3d 7f 9f 4d 51 58");
                assertEquals("8a 05 48 65 6c 6c 6f", raw.readHex(7));
                raw.hex("00 80 37 fa 21 3d" + "8a 80 37 fa 21 3d" + "89 80 37 fa 21 3d");
                assertEquals("8a 00", raw.readHex(2));
                raw.hex("80 82 37 fa 21 3d 5b 95");
                assertEquals("81 05 48 65 6c 6c 6f", raw.readHex(7));
                raw.bye();
            });
            fails(1000, "01 83 37 fa 21 3d 7f 9f 4d" + "88 82 37 fa 21 3d 34 12");
        }

        @Test
        @DisplayName("§5.4 a message may not begin inside another one")
        void aMessageMayNotBeginInsideAnother() throws Exception {
            for (String first : List.of("01", "02"))
                for (String second : List.of("81", "82", "01", "02"))
                    fails(1002, first + "81 37 fa 21 3d 7f" + second + "80 37 fa 21 3d");
        }

        @Test
        @DisplayName("§5.4 there must be something to continue")
        void thereMustBeSomethingToContinue() throws Exception {
            for (String stray : List.of("80 80 37 fa 21 3d", "00 80 37 fa 21 3d",
                    "80 85 37 fa 21 3d", "89 80 37 fa 21 3d 80 80 37 fa 21 3d"))
                bothWays(chat, "/echo", raw -> {
                    raw.hex(stray);
                    if (stray.startsWith("89")) assertEquals("8a 00", raw.readHex(2));
                    raw.assertClosed(1002);
                });
            bothWays(chat, "/echo", raw -> {                  // a message that was whole is over
                raw.hex("81 81 37 fa 21 3d 7f" + "80 80 37 fa 21 3d");
                assertEquals("81 01 48", raw.readHex(3));
                raw.assertClosed(1002);
            });
            bothWays(chat, "/echo", raw -> {                  // so is one that was in fragments
                raw.hex("01 81 37 fa 21 3d 7f" + "80 80 37 fa 21 3d" + "00 80 37 fa 21 3d");
                assertEquals("81 01 48", raw.readHex(3));
                raw.assertClosed(1002);
            });
        }

        @Test
        @DisplayName("§5.4 65,536 fragments in one message pass")
        void manyFragmentsPass() throws Exception {
            try (Raw raw = Raw.open(chat, "/echo")) {
                byte[] one = masked(0x00, (byte) 'x'), all = new byte[65536 * one.length];
                for (int i = 0; i < all.length; i++) all[i] = one[i % one.length];
                all[0] = 0x01;
                raw.write(all).frame(0x80);
                assertEquals("x".repeat(65536), raw.line());
                byte[] none = masked(0x00);
                all = new byte[65536 * none.length];
                for (int i = 0; i < all.length; i++) all[i] = none[i % none.length];
                for (int i = 0; i < 2; i++) {             // empty ones are counted per message
                    raw.frame(0x01).write(all).frame(0x80, (byte) 'x');
                    assertEquals("x", raw.line());
                }
                raw.bye();
            }
        }

        @Test
        @DisplayName("§10.4 an endless message is cut off: of empty fragments 1008, of others 1009")
        void anEndlessMessageIsCutOff() throws Exception {
            for (int size : new int[] {0, 1})
                try (Chat small = chat("--max-message=100000");
                        Raw raw = Raw.open(small, "/echo")) {
                    byte[] one = masked(0x00, new byte[size]), many = new byte[1000 * one.length];
                    for (int i = 0; i < many.length; i++) many[i] = one[i % one.length];
                    raw.frame(0x02);
                    for (int sent = 0; sent < 1000 && raw.in.available() == 0; sent++)
                        raw.write(many);
                    raw.assertClosed(size == 0 ? 1008 : 1009);
                }
        }

        @ParameterizedTest
        @DisplayName("§5.5 a control frame is whole and has at most 125 bytes: two bytes decide")
        @ValueSource(strings = {"88 fe", "88 ff", "89 fe", "89 ff", "8a fe", "8a ff", "08 80",
            "09 80", "0a 80", "08 82", "09 fd", "0a fe", "89 fe 00 7e 37 fa 21 3d",
            "89 ff 7f ff ff ff ff ff ff ff"})
        void aControlFrameIsShortAndWhole(String start) throws Exception {
            fails(1002, start);
            fails(1002, "01 83 37 fa 21 3d 7f 9f 4d" + start);
        }

        @Test
        @DisplayName("§6.2 frames that come together are served one after the other")
        void framesThatComeTogetherAreServedInOrder() throws Exception {
            var sent = new StringBuilder();
            var expected = new StringBuilder();
            for (int i = 0; i < 100; i++) {
                sent.append(hex(masked(0x81, utf8("#" + i)))).append("89 80 00 00 00 00")
                        .append("02 80 00 00 00 00 80 81 00 00 00 00 ff");
                expected.append(i < 10 ? "81 02" : "81 03").append(hex(utf8("#" + i)))
                        .append("8a 00 82 01 ff");
            }
            echoes(sent.toString(), expected.toString());
        }

        @Test
        @DisplayName("§5.4, §6.1 frames of many senders never mix on a connection")
        void framesOfManySendersNeverMix() throws Exception {
            int senders = 8, lines = 200;
            try (Raw listener = Raw.open(chat, "/chat/mix").assertNothingMore();
                    var threads = Executors.newVirtualThreadPerTaskExecutor()) {
                for (int i = 0; i < senders; i++) {
                    String letter = "" + (char) ('a' + i);
                    threads.submit(() -> {
                        try (Raw raw = Raw.open(chat, "/chat/mix")) {
                            for (int n = 0; n < lines; n++)
                                raw.text(letter.repeat(n * 7 % 300) + " " + n);
                            raw.hex("88 80 00 00 00 00").socket.getInputStream().readAllBytes();
                        }
                        return null;
                    });
                }
                var next = new HashMap<String, Integer>();
                for (int left = senders; left > 0; ) {
                    String line = listener.line();
                    if (line.endsWith(" has left.")) left--;
                    else {
                        String[] parts = line.split(": | ", 3);
                        int n = next.merge(parts[0], 1, Integer::sum) - 1;
                        assertEquals("" + n, parts[2]);
                        assertEquals(n * 7 % 300, parts[1].length());
                        assertTrue(parts[1].matches("(.?)\\1*"), parts[1]);
                    }
                }
                assertEquals(Collections.nCopies(senders, lines), List.copyOf(next.values()));
            }
        }
    }

    // ---- Messages: UTF-8, sizes, an independent peer (RFC 6455 §5.6, §8.1) --------------------

    @Nested
    @DisplayName("§5.6, §8.1 Messages")
    class Messages extends Served {
        @Test
        @DisplayName("§5.6 text comes back as text, binary as binary, whatever the bytes")
        void textComesBackAsTextBinaryAsBinary() throws Exception {
            byte[] all = new byte[256];
            for (int i = 0; i < 256; i++) all[i] = (byte) i;
            bothWays(chat, "/echo", raw -> {
                raw.frame(0x82, all);
                assertEquals("82 7e 01 00 " + hex(all), raw.readHex(260));
                for (String text : List.of("", "\0", "\r\n", "é€😀", "<b>&amp;", "\u202e\ufeff")) {
                    raw.text(text);
                    assertEquals(text, raw.line());
                }
                raw.bye();
            });
        }

        @Test
        @DisplayName("§8.1 every character there is comes back")
        void everyCharacterComesBack() throws Exception {
            try (Raw raw = Raw.open(chat, "/echo")) {
                for (int plane = 0; plane <= 0x10ffff; plane += 0x10000) {
                    int[] all = IntStream.range(plane, plane + 0x10000)
                            .filter(c -> c < 0xd800 || c > 0xdfff).toArray();
                    String text = new String(all, 0, all.length);
                    raw.text(text);
                    assertEquals(text, raw.line());
                }
                raw.bye();
            }
        }

        @ParameterizedTest
        @DisplayName("§5.6, §8.1 a character may be cut anywhere, by frames, packets and pings")
        @ValueSource(strings = {"c3 a9", "c2 80", "df bf", "e0 a0 80", "e2 82 ac", "ed 9f bf",
            "ee 80 80", "ef bf bd", "ef bf bf", "f0 90 80 80", "f0 9f 98 80", "f4 8f bf bf",
            "ce ba e1 bd b9 cf 83 ce bc ce b5", "7f c2 80 df bf e0 a0 80"})
        void aCharacterMayBeCutAnywhere(String text) throws Exception {
            byte[] whole = bytes(text);
            String expected = "81 %02x".formatted(whole.length) + text;
            assertEcho(chat, hex(masked(0x81, whole)), expected);
            for (int cut = 1; cut < whole.length; cut++)
                assertEcho(chat, hex(join(masked(0x01, Arrays.copyOf(whole, cut)), masked(0x89),
                        masked(0x00), masked(0x80, Arrays.copyOfRange(whole, cut, whole.length)))),
                        "8a 00" + expected);
            var bytes = new ByteArrayOutputStream();
            for (int i = 0; i < whole.length; i++)
                bytes.writeBytes(masked(i == 0 ? 0x01 : 0x00, whole[i]));
            bytes.writeBytes(masked(0x80));
            assertEcho(chat, hex(bytes.toByteArray()), expected);
        }

        /// Byte sequences (RFC 3629 §3, §4) whose last byte can't stand where it stands.
        private static final String BAD = """
                80 | bf | c0 | c1 | f5 | f8 | fc | fe | ff
                c2 00 | c3 41 | c3 c3 | df c0 | e0 80 | e0 9f | e1 41 | e1 c0 | e2 82 41 | e2 82 c0
                ed a0 | ed bf | ef 7f | f0 80 | f0 8f | f0 41 | f0 9f 41 | f0 9f 98 41 | f0 9f 98 c0
                f1 ff | f4 90 | f4 bf | f4 8f ff | e2 82 ac 80 | f0 9f 98 80 80 | 41 ff
                ce ba e1 bd b9 cf 83 ce bc ce b5 ed a0
                """;

        static Stream<String> bad() { return Stream.of(BAD.split("[|\n]")).map(String::strip); }

        @ParameterizedTest
        @DisplayName("§8.1 a byte that is not UTF-8 is 1007 as soon as it is there")
        @MethodSource("bad")
        void aBadByteIs1007AsSoonAsItIsThere(String text) throws Exception {
            byte[] bad = bytes(text), start = Arrays.copyOf(bad, bad.length - 1);
            byte[] last = {bad[start.length]};
            assertFails(chat, 1007, hex(masked(0x81, bad)));
            assertFails(chat, 1007, hex(masked(0x01, bad)));
            // the frame is not complete: three bytes of it are still to come
            byte[] more = masked(0x81, join(bad, new byte[3]));
            assertFails(chat, 1007, hex(Arrays.copyOf(more, more.length - 3)));
            more = masked(0x01, join(bad, new byte[70000]));
            assertFails(chat, 1007, hex(Arrays.copyOf(more, more.length - 70000)));
            // without its last byte it was still good
            for (int first : new int[] {0x00, 0x80})
                bothWays(chat, "/echo", raw -> {
                    raw.frame(0x01, start).assertNothingMore();
                    raw.frame(first, last).assertClosed(1007);
                });
        }

        @ParameterizedTest
        @DisplayName("§8.1 a message may not end inside a character")
        @ValueSource(strings = {"c3", "e2", "e2 82", "f0", "f0 9f", "f0 9f 98", "61 c3", "ed 9f"})
        void aMessageMayNotEndInsideACharacter(String text) throws Exception {
            assertFails(chat, 1007, hex(masked(0x81, bytes(text))));
            assertFails(chat, 1007, hex(join(masked(0x01, bytes(text)), masked(0x80))));
            assertFails(chat, 1007, hex(join(masked(0x01), masked(0x80, bytes(text)))));
        }

        @Test
        @DisplayName("§8.1 a bad byte is found anywhere in a long text, and never in binary")
        void aBadByteIsFoundAnywhere() throws Exception {
            for (int size : new int[] {7, 8, 9, 63, 64, 65, 511, 512, 513, 5000, 70000})
                for (int at : new int[] {0, 1, size / 2, size - 8 < 0 ? 0 : size - 8, size - 1}) {
                    byte[] text = utf8("x".repeat(size));
                    text[at] = (byte) 0xff;
                    try (Raw raw = Raw.open(chat, "/echo")) {
                        raw.frame(0x82, text);
                        assertArrayEquals(text, raw.frame().payload());
                        raw.frame(0x81, text).assertClosed(1007);
                    }
                }
        }

        @Test
        @DisplayName("§5.6, §7.4.1 a chat room takes no binary: 1003")
        void aChatRoomTakesNoBinary() throws Exception {
            try (Raw ada = Raw.open(chat, "/chat/binary").assertNothingMore()) {
                bothWays(chat, "/chat/binary",
                        eve -> eve.hex("82 85 37 fa 21 3d 7f 9f 4d 51 58").assertClosed(1003));
                bothWays(chat, "/chat/binary", eve -> eve.hex("02 80 37 fa 21 3d 80 80 37 fa 21 3d")
                        .assertClosed(1003));
                for (int i = 0; i < 4; i++) assertTrue(ada.line().endsWith(" has left."));
                ada.assertNothingMore();
            }
        }

        @Test
        @DisplayName("§10.4 1 MiB passes, also in fragments; a byte more does not")
        void oneMebibytePasses() throws Exception {
            String text = "é".repeat(1 << 19);
            byte[] bytes = utf8(text);
            try (Raw raw = Raw.open(chat, "/echo")) {
                raw.text(text);
                assertEquals(text, raw.line());
                for (int fragment : new int[] {1001, 65537}) {
                    for (int at = 0; at < bytes.length; at += fragment)
                        raw.frame(at == 0 ? 0x01 : 0x00, Arrays.copyOfRange(bytes, at,
                                Math.min(at + fragment, bytes.length))).frame(0x8a);
                    raw.frame(0x80);
                    assertEquals(text, raw.line());
                }
                raw.frame(0x01, bytes).frame(0x80, (byte) 'x').assertClosed(1009);
            }
        }

        /// The JDK's own client, written by others, in the other role.
        private static final class Peer implements WebSocket.Listener {
            final BlockingQueue<Object> heard = new LinkedBlockingQueue<>();
            private final StringBuilder text = new StringBuilder();
            private final ByteArrayOutputStream binary = new ByteArrayOutputStream();

            @Override
            public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
                text.append(data);
                if (last) {
                    heard.add(text.toString());
                    text.setLength(0);
                }
                socket.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer data, boolean last) {
                byte[] bytes = new byte[data.remaining()];
                data.get(bytes);
                binary.writeBytes(bytes);
                if (last) {
                    heard.add(hex(binary.toByteArray()));
                    binary.reset();
                }
                socket.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onPong(WebSocket socket, ByteBuffer message) {
                heard.add("pong " + StandardCharsets.UTF_8.decode(message));
                socket.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
                heard.add(code);
                return null;
            }

            @Override
            public void onError(WebSocket socket, Throwable error) { heard.add(error); }

            Object next() throws InterruptedException {
                return Objects.requireNonNull(heard.poll(PATIENCE, TimeUnit.SECONDS));
            }
        }

        @Test
        @DisplayName("§1.5 an independent client gets all back, fragments and 1 MiB too")
        void anIndependentClientGetsAllBack() throws Exception {
            try (HttpClient client = HttpClient.newHttpClient()) {
                var peer = new Peer();
                var uri = URI.create("ws://localhost:" + chat.webSocketPort() + "/echo");
                WebSocket socket = opening(client).buildAsync(uri, peer).join();
                for (String text : List.of("", "Hello", "é€😀", "x".repeat(126), "y".repeat(65536),
                        "z".repeat(1 << 20))) {
                    socket.sendText(text, true).join();
                    assertEquals(text, peer.next());
                }
                for (int size : new int[] {0, 125, 65535, 1 << 20}) {
                    byte[] bytes = new byte[size];
                    new Random(size).nextBytes(bytes);
                    socket.sendBinary(ByteBuffer.wrap(bytes), true).join();
                    assertEquals(hex(bytes), peer.next());
                }
                socket.sendText("frag", false).join();
                socket.sendPing(ByteBuffer.wrap(utf8("inside"))).join();
                assertEquals("pong inside", peer.next());
                socket.sendPong(ByteBuffer.allocate(0)).join();
                socket.sendText("", false).join();
                socket.sendText("ments", true).join();
                assertEquals("fragments", peer.next());
                socket.sendClose(4321, "enough").join();
                assertEquals(4321, peer.next());
                assertTrue(peer.heard.isEmpty());
            }
        }

        @ParameterizedTest
        @DisplayName("§1.5, RFC 7692 §7 Node's ws gets all back, compressed or not")
        @CsvSource({"false, ''", "true, permessage-deflate"})
        void nodesWsGetsAllBack(boolean deflate, String extensions) throws Exception {
            try (Program node = node("""
                    const socket = new WebSocket('ws://localhost:%d/echo',
                      { perMessageDeflate: %s });
                    const sent = ['', 'Hello', 'é€😀'.repeat(50000), Buffer.alloc(0),
                      Buffer.alloc(70000, 'z'), 'x'.repeat(1 << 20)];
                    const wrong = [];
                    let count = 0;
                    socket.on('open', () => {
                      sent.forEach(message => socket.send(message));
                      socket.ping('last');
                    });
                    socket.on('message', (data, isBinary) => {
                      const message = sent[count++];
                      const same = data.equals(Buffer.from(message));
                      if (!same || isBinary !== Buffer.isBuffer(message)) wrong.push(count);
                    });
                    socket.on('pong', () => socket.close(4321));
                    socket.on('close', code =>
                      console.log([socket.extensions, wrong, count, code].join()));
                    """.formatted(chat.webSocketPort(), deflate))) {
                assertEquals(extensions + ",,6,4321", node.next(node.out));
                assertEquals(0, node.exit(), node.err::toString);
            }
        }

        @Test
        @DisplayName("§1.9 an independent client gets its subprotocol, and none it did not ask for")
        void anIndependentClientGetsItsSubprotocol() throws Exception {
            try (HttpClient client = HttpClient.newHttpClient()) {
                var uri = URI.create("ws://localhost:" + chat.webSocketPort() + "/chat/peer");
                var peer = new Peer();
                WebSocket socket = opening(client).subprotocols("foo", "presence")
                        .buildAsync(uri, peer).join();
                assertEquals("presence", socket.getSubprotocol());
                String name = peer.next().toString().replaceAll("^you ", "");
                assertEquals("joined " + name + " 1", peer.next());
                socket.sendText("Hello", true).join();
                assertEquals("said " + name + " Hello", peer.next());
                socket.abort();
                socket = opening(client).subprotocols("foo", "bar")
                        .buildAsync(uri, new Peer()).join();
                assertEquals("", socket.getSubprotocol());
                socket.abort();
                var nowhere = opening(client).buildAsync(uri.resolve("/nowhere"), new Peer());
                assertInstanceOf(WebSocketHandshakeException.class,
                        assertThrows(CompletionException.class, nowhere::join).getCause());
            }
        }
    }

    // ---- Ping and pong (RFC 6455 §5.5.2, §5.5.3) ----------------------------------------------

    @Nested
    @DisplayName("§5.5.2, §5.5.3 Ping and pong")
    class PingPong extends Served {
        @Test
        @DisplayName("§5.5.2, §5.7 a ping is answered with its own payload")
        void aPingIsAnsweredWithItsPayload() throws Exception {
            assertEcho(chat, "89 85 37 fa 21 3d 7f 9f 4d 51 58", "8a 05 48 65 6c 6c 6f");
            assertEcho(chat, "89 80 37 fa 21 3d", "8a 00");
            assertEcho(chat, hex(masked(0x89, bytes("00 ff fe c0 80"))), "8a 05 00 ff fe c0 80");
            byte[] longest = new byte[125];
            for (int i = 0; i < 125; i++) longest[i] = (byte) (200 - i);
            assertEcho(chat, hex(masked(0x89, longest)), "8a 7d " + hex(longest));
        }

        @Test
        @DisplayName("§5.5.2 pings are answered in a chat room too, and not told to anyone")
        void pingsAreAnsweredInAChatRoomToo() throws Exception {
            try (Raw ada = Raw.open(chat, "/chat/ping"); Raw bob = Raw.open(chat, "/chat/ping")) {
                ada.frame(0x89, utf8("x")).frame(0x8a, utf8("y"));
                assertEquals("8a 01 78", ada.readHex(3));
                bob.assertNothingMore();
                ada.assertNothingMore();
            }
        }

        @Test
        @DisplayName("§5.5.3, §5.7 a pong nobody asked for gets no answer")
        void aPongNobodyAskedForGetsNoAnswer() throws Exception {
            assertEcho(chat, "8a 85 37 fa 21 3d 7f 9f 4d 51 58 8a 80 00 00 00 00", "");
        }

        @Test
        @DisplayName("§5.4, §5.5.2 a ping inside a long message is answered at once")
        void aPingInsideALongMessageIsAnsweredAtOnce() throws Exception {
            try (Raw raw = Raw.open(chat, "/echo")) {
                byte[] part = new byte[100_000];
                for (int i = 0; i < 10; i++) {
                    raw.frame(i == 0 ? 0x02 : 0x00, part).frame(0x89, (byte) i);
                    assertEquals("8a 01 0" + i, raw.readHex(3));
                }
                raw.frame(0x80);
                assertArrayEquals(new byte[1_000_000], raw.frame().payload());
                raw.bye();
            }
        }

        @Test
        @DisplayName("§5.5.3 a flood of pings piles up nothing, and the newest is answered")
        void aFloodOfPingsPilesUpNothing() throws Exception {
            int pings = 200_000;                      // 25 MB of pongs, and the queue holds 100 kB
            var sent = new AtomicInteger();
            try (Chat small = chat("--max-queue=100000"); Raw raw = Raw.open(small, "/echo")) {
                Thread flood = Thread.startVirtualThread(() -> {
                    var batch = new ByteArrayOutputStream();
                    while (sent.get() < pings) {
                        batch.reset();
                        for (int i = sent.get(); i < sent.get() + 1000; i++)
                            batch.writeBytes(masked(0x89, utf8("%0125d".formatted(i))));
                        assertDoesNotThrow(() -> raw.write(batch.toByteArray()));
                        sent.addAndGet(1000);
                    }
                });
                // Nothing is read until all is sent, or the server has had enough for now.
                for (int before = -1; before != sent.get() && flood.isAlive(); Thread.sleep(200))
                    before = sent.get();
                for (int last = -1; last < pings - 1; ) {
                    Frame pong = raw.frame();
                    assertEquals(0x8a, pong.first());
                    int number = Integer.parseInt(pong.text());
                    assertTrue(number > last, "an old ping was answered after a newer one");
                    last = number;
                }
                flood.join();
                raw.bye();
            }
        }

        @Test
        @DisplayName("§5.5.2 who is silent is pinged; if he stays silent, he is gone: 1006")
        void whoIsSilentIsPinged() throws Exception {
            var end = new CompletableFuture<Integer>();
            var opened = new CompletableFuture<Chat.WebSocket>();
            int silence = Chat.WebSocket.SILENCE;
            assertTrue(2 * silence < 60, "proxies cut off who says nothing for a minute");
            try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                    Raw raw = new Raw(listener.getLocalPort())) {
                Socket socket = listener.accept();
                Thread.startVirtualThread(() -> Chat.WebSocket.serve(socket, webSocket -> {
                    opened.complete(webSocket);
                    while (webSocket.receive() != null) continue;
                    end.complete(webSocket.closeCode());
                }));
                raw.shakeHands("/");
                for (int i = 0; i < 3; i++) {
                    lookAfter(opened.get(), 0);
                    lookAfter(opened.get(), silence + 1);
                    assertEquals("89 00", raw.readHex(2));
                    raw.frame(0x8a).assertNothingMore();
                }
                lookAfter(opened.get(), 2 * silence + 1);
                assertEquals(1006, end.get(PATIENCE, TimeUnit.SECONDS));
            }
        }

        /// What the server would do about a connection in so many seconds, if nothing came.
        @Test
        @DisplayName("what nobody has read yet is a sign of life: the handler may be busy")
        void whatIsUnreadIsASignOfLife() throws Exception {
            var busy = new CompletableFuture<Chat.WebSocket>();
            var done = new CompletableFuture<Void>();
            Closing.serving(webSocket -> {
                busy.complete(webSocket);
                done.join();
                assertEquals("Hello", webSocket.receive().text());
            }, raw -> {
                Chat.WebSocket webSocket = busy.get(PATIENCE, TimeUnit.SECONDS);
                raw.text("Hello");
                eventually(true, () -> ((Socket) field(Chat.WebSocket.class, "socket")
                        .get(webSocket)).getInputStream().available() > 0);
                for (int seconds = 30; seconds <= 300; seconds += 30) lookAfter(webSocket, seconds);
                done.complete(null);
                raw.assertClosed(1000);
            });
        }

        private static void lookAfter(Chat.WebSocket webSocket, int seconds) throws Exception {
            var look = Chat.WebSocket.class.getDeclaredMethod("look", long.class);
            look.setAccessible(true);
            look.invoke(webSocket, System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds));
        }
    }

    // ---- Closing (RFC 6455 §5.5.1, §7) --------------------------------------------------------

    @Nested
    @DisplayName("§5.5.1, §7 Closing")
    class Closing extends Served {
        private static byte[] close(int code, byte... reason) {
            return masked(0x88, join(bytes("%04x".formatted(code)), reason));
        }

        @ParameterizedTest
        @DisplayName("§5.5.1, §7.4 a Close is answered with its code alone, then TCP is ended")
        @ValueSource(ints = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
            3000, 3999, 4000, 4321, 4999})
        void aCloseIsAnsweredWithItsCodeAlone(int code) throws Exception {
            for (byte[] reason : List.of(utf8(""), utf8("bye"), utf8("x".repeat(123)), utf8("€😀")))
                bothWays(chat, "/echo", raw -> {
                    raw.write(close(code, reason));
                    assertEquals("88 02 " + hex(bytes("%04x".formatted(code))), raw.readHex(4));
                    raw.assertEnd();
                });
        }

        @Test
        @DisplayName("§5.5.1, §7.1.5 an empty Close is answered with an empty one")
        void anEmptyCloseIsAnsweredWithAnEmptyOne() throws Exception {
            bothWays(chat, "/echo", raw -> {
                raw.hex("88 80 37 fa 21 3d");
                assertEquals("88 00", raw.readHex(2));
                raw.assertEnd();
            });
        }

        @ParameterizedTest
        @DisplayName("§7.4 a code that no Close may carry is 1002")
        @ValueSource(ints = {0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999,
            32768, 65535})
        void anIllegalCodeIs1002(int code) throws Exception {
            assertFails(chat, 1002, hex(close(code)));
            assertFails(chat, 1002, hex(close(code, utf8("bye"))));
        }

        @Test
        @DisplayName("§5.5.1 a Close of one byte is 1002")
        void aCloseOfOneByteIs1002() throws Exception {
            assertFails(chat, 1002, "88 81 37 fa 21 3d 34");
        }

        @ParameterizedTest
        @DisplayName("§5.5.1, §8.1 a reason that is not UTF-8 is 1007")
        @ValueSource(strings = {"ff", "61 c3", "c0 80", "ed a0 80", "f4 90 80 80", "e2 82", "80"})
        void aReasonThatIsNotTextIs1007(String reason) throws Exception {
            assertFails(chat, 1007, hex(close(1000, bytes(reason))));
        }

        @Test
        @DisplayName("§5.5.1, §7.1.7 whatever follows a Close or a failure is not processed")
        void whateverFollowsIsNotProcessed() throws Exception {
            byte[] more = join(masked(0x81, utf8("late")), masked(0x89, utf8("late")), close(1001),
                    bytes("ff ff 00 81"), close(1000), masked(0x81, utf8("late")));
            bothWays(chat, "/echo", raw -> {
                raw.write(join(close(4000), more));
                assertEquals("88 02 0f a0", raw.readHex(4));
                raw.assertEnd();
            });
            for (String bad : List.of("81 00", "83 80", "88 81 00 00 00 00 00", "80 80 00 00"))
                bothWays(chat, "/echo",
                        raw -> raw.write(join(bytes(bad), more)).assertClosed(1002));
            try (Raw ada = Raw.open(chat, "/chat/late").assertNothingMore()) {
                bothWays(chat, "/chat/late",
                        eve -> eve.write(join(close(1000), more)).assertClosed(1000));
                bothWays(chat, "/chat/late",
                        eve -> eve.write(join(bytes("83 80"), more)).assertClosed(1002));
                for (int i = 0; i < 4; i++) assertTrue(ada.line().endsWith(" has left."));
                ada.assertNothingMore();
            }
        }

        @Test
        @DisplayName("§7.1.1 the Close arrives though the peer is still sending much")
        void theCloseArrivesThoughThePeerIsStillSending() throws Exception {
            byte[] much = new byte[1 << 20];
            for (String end : List.of("88 82 37 fa 21 3d 34 12", "ff ff"))
                try (Raw raw = Raw.open(chat, "/echo")) {
                    raw.hex(end);
                    for (int i = 0; i < 4; i++) raw.write(much);
                    raw.assertClosed(end.startsWith("88") ? 1000 : 1002);
                }
        }

        @Test
        @DisplayName("§7.1.1 who doesn't end his side, or keeps sending, is hung up on")
        void whoDoesNotEndHisSideIsHungUpOn() throws Exception {
            try (Raw closed = Raw.open(chat, "/echo"); Raw failed = Raw.open(chat, "/echo");
                    Raw refused = new Raw(chat.webSocketPort())) {
                closed.write(close(1000)).assertClosed(1000);
                failed.hex("83 80").assertClosed(1002);
                assertTrue(refused.ascii("GET\r\n\r\n").readAll().startsWith("HTTP/1.1 400 "));
                for (Raw raw : List.of(closed, failed, refused))
                    eventually("reset", () -> {
                        try {
                            raw.write((byte) 0);
                            return "still there";
                        } catch (SocketException gone) {
                            return "reset";
                        }
                    });
            }
        }

        @Test
        @DisplayName("§7.1.5 who goes without a Close, anywhere in a frame, has left, once")
        void whoGoesWithoutACloseHasLeft() throws Exception {
            byte[] frame = join(masked(0x01, (byte) 'x'), masked(0x80, new byte[200]));
            try (Raw ada = Raw.open(chat, "/chat/gone").assertNothingMore()) {
                for (int cut = 0; cut < 20; cut++)
                    for (boolean reset : List.of(false, true)) {
                        Raw eve = Raw.open(chat, "/chat/gone").write(Arrays.copyOf(frame, cut));
                        if (reset) eve.reset();
                        else eve.close();
                    }
                for (int i = 0; i < 40; i++) assertTrue(ada.line().endsWith(" has left."));
                ada.text("/who");
                assertTrue(ada.line().startsWith(" .... 1 here: user-"));
                ada.assertNothingMore();
            }
        }

        @Test
        @DisplayName("§7.1.2, §7.4.1 a server that stops says 1001 to everyone")
        void aServerThatStopsSays1001() throws Exception {
            Chat stopping = chat();
            try (Raw ada = Raw.open(stopping, "/chat"); Raw bob = Raw.open(stopping, "/echo");
                    Raw eve = Raw.open(stopping, "/chat")) {
                for (Raw raw : List.of(ada, eve)) raw.assertNothingMore();
                bob.frame(0x89).hex("01 83 37 fa 21 3d 7f 9f");
                assertEquals("8a 00", bob.readHex(2));
                Thread stop = Thread.startVirtualThread(stopping::close);
                for (Raw raw : List.of(ada, bob, eve)) {
                    Frame last = raw.frame();             // leavings may be told before
                    while (last.first() == 0x81) last = raw.frame();
                    assertEquals(0x88, last.first());
                    assertEquals(1001, last.code());
                }
                bob.hex("4d");                            // the rest is discarded, a Close awaited
                for (Raw raw : List.of(ada, bob, eve)) {
                    raw.text("late").frame(0x89).write(close(1001));
                    raw.assertEnd();
                    raw.close();
                }
                stop.join(Duration.ofSeconds(PATIENCE));
                assertFalse(stop.isAlive());
            } finally {
                stopping.close();
            }
        }

        @Test
        @DisplayName("§4.2.2, §7.1.2 from the 101 on a server that stops says 1001")
        void fromThe101OnAServerThatStopsSays1001() throws Exception {
            for (int i = 0; i < 50; i++) {
                Chat stopping = chat();
                try (Raw raw = Raw.open(stopping, "/echo")) {
                    Thread stop = Thread.startVirtualThread(stopping::close);
                    assertEquals(1001, raw.frame().code());
                    raw.write(close(1001)).assertEnd();
                    raw.socket.close();
                    stop.join(Duration.ofSeconds(PATIENCE));
                } finally {
                    stopping.close();
                }
            }
        }

        /// A server of one connection with a handler of its own: the class WebSocket as a library.
        /// @return what it had to log
        private static List<String> serving(Chat.WebSocket.Handler handler, Script client)
                throws Exception {
            var log = new LinkedBlockingQueue<String>();
            var settings = settings(log::add);
            try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                    Raw raw = new Raw(listener.getLocalPort())) {
                Socket socket = listener.accept();
                Thread server = Thread.startVirtualThread(() -> new Chat.WebSocket(socket, settings)
                        .serve(handshake -> List.of(), handler));
                client.run(raw.shakeHands("/"));
                raw.socket.close();
                server.join(Duration.ofSeconds(PATIENCE));
                assertFalse(server.isAlive(), "the connection's thread has not ended");
                assertTrue(socket.isClosed());
            }
            return List.copyOf(log);
        }

        /// The server asks to close, is answered, and ends TCP.
        private static void assertAsked(Raw raw, int code, String reason) throws IOException {
            assertEquals(hex(join(bytes("88 %02x %04x".formatted(2 + utf8(reason).length, code)),
                    utf8(reason))), raw.readHex(4 + utf8(reason).length));
            raw.write(close(code)).assertEnd();
        }

        @Test
        @DisplayName("what a handler was refused by somebody else is not said to its own peer")
        void whatOthersRefusedIsNoFaultOfThePeer() throws Exception {
            Chat.WebSocket.Handler handler = webSocket -> {
                throw new Chat.WebSocket.Refusal(403, "the server answered 403 Forbidden");
            };
            List<String> log = serving(handler, raw -> {
                Frame close = raw.frame();
                assertEquals(1011, close.code());
                assertFalse(close.toString().contains("403"), close::toString);
            });
            assertTrue(log.toString().contains("403 Forbidden"), log::toString);
        }

        @Test
        @DisplayName("§7.1.1 who reads slowly, but reads, hears all before our Close, and that")
        void whoReadsSlowlyHearsAllBeforeTheClose() throws Exception {
            byte[] piece = new byte[1 << 20];
            int pieces = 7;                             // MB, of which sockets hold some
            var over = new CompletableFuture<Chat.WebSocket>();
            serving(webSocket -> {
                for (int i = 0; i < pieces; i++)
                    webSocket.post(new Chat.WebSocket.Message(false, piece));
                webSocket.close(1000, "");
                over.complete(webSocket);
            }, raw -> {
                Chat.WebSocket webSocket = over.get(PATIENCE, TimeUnit.SECONDS);
                for (int i = 0; i < pieces; i++) {
                    assertEquals(piece.length, raw.frame().payload().length);
                    field(Chat.WebSocket.class, "deadline").setLong(webSocket,
                            System.nanoTime() - TimeUnit.SECONDS.toNanos(60));
                    PingPong.lookAfter(webSocket, 0);
                }
                raw.assertClosed(1000);
            });
        }

        @Test
        @DisplayName("§7.1.5 the application learns the peer's code and reason, or 1005 or 1006")
        void theApplicationLearnsTheCode() throws Exception {
            var ends = new LinkedBlockingQueue<String>();
            Chat.WebSocket.Handler handler = webSocket -> {
                assertEquals(Chat.WebSocket.State.OPEN, webSocket.state());
                while (webSocket.receive() != null) continue;
                assertNull(webSocket.receive());          // an end is an end
                assertEquals(Chat.WebSocket.State.CLOSED, webSocket.state());
                ends.add(webSocket.closeCode() + webSocket.closeReason());
            };
            serving(handler, raw -> raw.write(close(4000, utf8("é"))).assertClosed(4000));
            serving(handler, raw -> raw.hex("88 80 00 00 00 00").assertClosed(1005));
            serving(handler, raw -> raw.text("x"));                           // FIN
            serving(handler, raw -> raw.hex("88 82 00 00 00"));               // inside the Close
            serving(handler, Raw::reset);
            assertEquals("[4000é, 1005, 1006, 1006, 1006]", ends.toString());
        }

        @Test
        @DisplayName("§7.1.2, §7.1.3 after our own Close nothing goes out; its answer is awaited")
        void closingFromHere() throws Exception {
            var ends = new LinkedBlockingQueue<String>();
            Chat.WebSocket.Handler handler = webSocket -> {
                assertTrue(webSocket.send(Chat.WebSocket.Message.text("last")));
                webSocket.close(4000, "done");
                webSocket.close(4001, "again");
                webSocket.ping();
                assertFalse(webSocket.send(Chat.WebSocket.Message.text("late")));
                assertEquals(Chat.WebSocket.State.CLOSING, webSocket.state());
                assertNull(webSocket.receive());
                ends.add(webSocket.closeCode() + webSocket.closeReason());
            };
            serving(handler, raw -> {
                assertEquals("last", raw.line());
                assertEquals("88 06 0f a0 64 6f 6e 65", raw.readHex(8));
                raw.text("late").frame(0x01, (byte) 'x').frame(0x89).frame(0x80, new byte[70000]);
                raw.write(close(4000, utf8("you too")));
                raw.assertEnd();
            });
            serving(handler, raw -> {                     // the two have crossed
                raw.write(close(1000));
                assertEquals("last", raw.line());
                assertEquals("88 06 0f a0 64 6f 6e 65", raw.readHex(8));
                raw.assertEnd();
            });
            assertEquals("[4000you too, 1000]", ends.toString());
        }

        @Test
        @DisplayName("§7.2.2 to close before the handshake has ended is to cut off")
        void toCloseBeforeTheHandshakeHasEndedIsToCutOff() throws Exception {
            for (String start : List.of("", "GET / HTTP/1.1\r\n"))
                try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                        Raw raw = new Raw(listener.getLocalPort()).ascii(start)) {
                    var webSocket = new Chat.WebSocket(listener.accept(),
                            new Chat.WebSocket.Settings());
                    Thread server = Thread.startVirtualThread(() -> webSocket.serve(
                            handshake -> List.of(), opened -> { }));
                    webSocket.close(1001, "");
                    assertNotEquals(Chat.WebSocket.State.CONNECTING, webSocket.state());
                    assertThrows(SocketException.class, raw::readAll);
                    server.join(Duration.ofSeconds(PATIENCE));
                    assertFalse(server.isAlive());
                }
        }

        @Test
        @DisplayName("§7.1.1 who doesn't answer a Close is not waited for, and TCP ends with FIN")
        void whoDoesNotAnswerACloseIsNotWaitedFor() throws Exception {
            serving(webSocket -> {
                webSocket.close(4000, "");
                assertNull(webSocket.receive());
                assertEquals(1006, webSocket.closeCode());
            }, raw -> raw.assertClosed(4000));
        }

        @Test
        @DisplayName("§7.4 no Close frame goes out with a code that may not be sent")
        void noIllegalCodeGoesOut() throws Exception {
            serving(webSocket -> {
                for (int code : new int[] {0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 66536})
                    assertThrows(IllegalArgumentException.class, () -> webSocket.close(code, ""));
            }, raw -> assertAsked(raw, 1000, ""));
        }

        @ParameterizedTest
        @DisplayName("§5.5 a reason too long is cut between two characters")
        @CsvSource({"x, 123", "é, 122", "€, 123", "😀, 120"})
        void aReasonTooLongIsCutBetweenTwoCharacters(String character, int size) throws Exception {
            serving(webSocket -> webSocket.close(4000, character.repeat(124)), raw ->
                    assertAsked(raw, 4000, character.repeat(size / utf8(character).length)));
        }

        @Test
        @DisplayName("§7.4.1 a handler that throws costs its own connection only: 1011")
        void aHandlerThatThrowsCostsItsOwnConnection() throws Exception {
            for (Throwable bug : List.of(new IllegalStateException("bug"), new IOException("bug"),
                    new StackOverflowError(), new OutOfMemoryError("bug")))
                assertFalse(serving(webSocket -> {
                    webSocket.receive();
                    if (bug instanceof IOException io) throw io;
                    if (bug instanceof Error error) throw error;
                    throw (RuntimeException) bug;
                }, raw -> raw.text("x").text("y").assertClosed(1011)).isEmpty());
        }

        @Test
        @DisplayName("§7.1.7 a failure is told to the application, the peer and the log")
        void aFailureIsTold() throws Exception {
            var told = new LinkedBlockingQueue<String>();
            List<String> log = serving(webSocket -> {
                var refusal = assertThrows(Chat.WebSocket.Refusal.class, webSocket::receive);
                assertEquals(Chat.WebSocket.State.CLOSED, webSocket.state());
                told.add(refusal.code + ": " + refusal.getMessage());
            }, raw -> {
                String reason = raw.hex("81 05").assertClosed(1002);
                assertTrue(reason.contains("§5.1"), reason);
                told.add("1002: " + reason);
            });
            assertEquals(1, Set.copyOf(told).size(), told.toString());
            assertEquals(2, told.size());
            assertEquals(1, log.size(), log.toString());
            assertTrue(log.get(0).contains("§5.1"), log.get(0));
        }

        @Test
        @DisplayName("§7.1.7 every failure names its section to the peer")
        void everyFailureNamesItsSection() throws Exception {
            for (String bad : List.of("83 80", "91 80", "09 80", "89 fe", "81 fe 00 05",
                    "80 80 00 00 00 00", "82 ff 80 00 00 00 00 00 00 00",
                    "82 ff 00 00 00 00 ff ff ff ff 00 00 00 00",
                    "81 81 00 00 00 00 ff", "88 81 00 00 00 00 00", "88 82 00 00 00 00 00 00"))
                try (Raw raw = Raw.open(chat, "/echo")) {
                    Frame last = raw.hex(bad).frame();
                    assertTrue(last.toString().contains("§"), last.toString());
                }
        }
    }

    // ---- permessage-deflate (RFC 7692) --------------------------------------------------------

    @Nested
    @DisplayName("RFC 7692 permessage-deflate")
    class Compression extends Served {
        private static final String OFFER = "Sec-WebSocket-Extensions: permessage-deflate";
        private static final String ANSWER = "permessage-deflate; server_no_context_takeover; "
                + "client_no_context_takeover";

        /// §7.2.1, as a client does it.
        private static byte[] deflate(byte[] message) {
            var deflater = new Deflater(Deflater.DEFAULT_COMPRESSION, true);
            deflater.setInput(message);
            byte[] out = new byte[message.length + 1000];
            int size = deflater.deflate(out, 0, out.length, Deflater.SYNC_FLUSH);
            deflater.end();
            assertEquals("00 00 ff ff", hex(Arrays.copyOfRange(out, size - 4, size)));
            return Arrays.copyOf(out, size - 4);
        }

        /// §7.2.2, with an empty window for each message.
        private static byte[] inflate(byte[] payload) throws Exception {
            assertFalse(hex(payload).endsWith("00 00 ff ff"), "the tail is still there (§7.2.1)");
            var inflater = new Inflater(true);
            inflater.setInput(join(payload, bytes("00 00 ff ff")));
            var out = new ByteArrayOutputStream();
            byte[] buffer = new byte[65536];
            for (int got; (got = inflater.inflate(buffer)) > 0; ) out.write(buffer, 0, got);
            assertEquals(0, inflater.getRemaining());
            inflater.end();
            return out.toByteArray();
        }

        private void echoes(String sent, String expected) throws Exception {
            assertEcho(chat, sent, expected, OFFER);
        }

        private void fails(int code, String sent) throws Exception {
            assertFails(chat, code, sent, OFFER);
        }

        private String answer(Chat chat, String... offers) throws IOException {
            try (Raw raw = Raw.open(chat, "/echo", Stream.of(offers)
                    .map("Sec-WebSocket-Extensions: "::concat).toArray(String[]::new))) {
                List<String> answers = raw.head.lines()
                        .filter(line -> line.startsWith("Sec-WebSocket-Extensions")).toList();
                raw.bye();
                return String.join("|", answers).replace("Sec-WebSocket-Extensions: ", "");
            }
        }

        @ParameterizedTest
        @DisplayName("§5, §7.1 an offer that can be kept is accepted")
        @ValueSource(strings = {"", "; client_max_window_bits", "; client_no_context_takeover",
            "; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
            ";client_no_context_takeover ; server_no_context_takeover",
            "; client_max_window_bits=8", "; client_max_window_bits=15",
            "; client_max_window_bits=\"10\"", ";client_max_window_bits = 9",
            ", foo", ", permessage-deflate; client_max_window_bits"})
        void anOfferThatCanBeKeptIsAccepted(String rest) throws Exception {
            assertEquals(ANSWER, answer(chat, "permessage-deflate" + rest));
            assertEquals(ANSWER, answer(chat, "foo; bar,permessage-deflate" + rest));
        }

        @ParameterizedTest
        @DisplayName("§7.1.2.1 server_max_window_bits=15 can be kept, and is said again")
        @ValueSource(strings = {"=15", "=\"15\"; client_max_window_bits"})
        void aWindowOf15BitsIsSaidAgain(String bits) throws Exception {
            assertEquals(ANSWER + "; server_max_window_bits=15",
                    answer(chat, "permessage-deflate; server_max_window_bits" + bits));
        }

        @ParameterizedTest
        @DisplayName("§5, §7 an offer that is illegal or can't be kept is declined, with 101")
        @ValueSource(strings = {"foo", "foo=15", "server_no_context_takeover=1",
            "client_no_context_takeover=\"true\"",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "client_max_window_bits; client_max_window_bits",
            "client_max_window_bits=10; client_max_window_bits",
            "server_max_window_bits=15; server_max_window_bits=15",
            "server_max_window_bits", "server_max_window_bits=7", "server_max_window_bits=16",
            "server_max_window_bits=8", "server_max_window_bits=14",    // legal, but not for us
            "server_max_window_bits=015", "server_max_window_bits=x", "server_max_window_bits=1e1",
            "client_max_window_bits=7", "client_max_window_bits=16", "client_max_window_bits=08",
            "client_max_window_bits=-9", "client_max_window_bits=99999999999", "bar=\"1\""})
        void anOfferThatCanNotBeKeptIsDeclined(String parameters) throws Exception {
            String offer = "permessage-deflate; " + parameters;
            assertEquals("", answer(chat, offer));
            assertEquals("", answer(chat, offer, offer));
            assertEquals("", answer(chat, "x-permessage-deflate, a; permessage-deflate, " + offer));
            assertEquals(ANSWER, answer(chat, offer + ", permessage-deflate"));
            assertEquals(ANSWER, answer(chat, offer, "permessage-deflate; client_max_window_bits"));
        }

        @Test
        @DisplayName("§5 of several offers the first that can be kept is taken, and only one")
        void theFirstOfferThatCanBeKeptIsTaken() throws Exception {
            assertEquals(ANSWER, answer(chat, "permessage-deflate; server_max_window_bits=\"10\", "
                    + "permessage-deflate, permessage-deflate; server_max_window_bits=15"));
            assertEquals(ANSWER + "; server_max_window_bits=15", answer(chat,
                    "permessage-deflate; foo", "permessage-deflate; server_max_window_bits=15",
                    "permessage-deflate"));
        }

        @Test
        @DisplayName("§5 with --no-deflate every offer is declined, and RSV1 means nothing")
        void withNoDeflateEveryOfferIsDeclined() throws Exception {
            try (Chat plain = chat("--no-deflate")) {
                assertEquals("", answer(plain, "permessage-deflate"));
                assertFails(plain, 1002, "c1 87", OFFER);
                try (Raw raw = Raw.open(plain, "/echo", OFFER)) {
                    raw.text("x".repeat(5000));
                    assertEquals("x".repeat(5000), raw.line());
                }
            }
            assertFails(chat, 1002, "c1 87");             // nothing was offered
            assertFails(chat, 1002, "c1 87", OFFER + "; foo");
        }

        @ParameterizedTest
        @DisplayName("§7.2.3 the RFC's examples of Hello, in one frame")
        @ValueSource(strings = {"f2 48 cd c9 c9 07 00",                    // §7.2.3.1
            "00 05 00 fa ff 48 65 6c 6c 6f 00",                            // §7.2.3.3 stored
            "f3 48 cd c9 c9 07 00 00",                                     // §7.2.3.4 BFINAL
            "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",                      // §7.2.3.5 two blocks
            "f2 48 cd c9 c9 07 00 00 00 ff ff 00",                         // an empty block more
            "f3 48 cd c9 c9 07 00", "03 00 f2 48 cd c9 c9 07 00", "f3 48 cd c9 c9 07 00 03 00 00",
            "01 05 00 fa ff 48 65 6c 6c 6f 00", "f3 48 05 00 ca c9 c9 07 00"})
        void theRfcsExamplesOfHello(String payload) throws Exception {
            byte[] data = bytes(payload);
            echoes(hex(masked(0xc1, data)), "81 05 48 65 6c 6c 6f");
            echoes(hex(masked(0xc2, data)), "82 05 48 65 6c 6c 6f");
            for (int cut = 0; cut <= data.length; cut++)
                echoes(hex(join(masked(0x41, Arrays.copyOf(data, cut)), masked(0x89), masked(0x00),
                        masked(0x80, Arrays.copyOfRange(data, cut, data.length)))),
                        "8a 00 81 05 48 65 6c 6c 6f");
        }

        @Test
        @DisplayName("§7.2.3.1 the frames as they stand on the wire")
        void theFramesAsTheyStandOnTheWire() throws Exception {
            echoes("c1 87 37 fa 21 3d c5 b2 ec f4 fe fd 21", "81 05 48 65 6c 6c 6f");
            echoes("41 83 00 00 00 00 f2 48 cd 80 84 00 00 00 00 c9 c9 07 00",
                    "81 05 48 65 6c 6c 6f");
        }

        @Test
        @DisplayName("§7.2.3.6 an empty message is one zero byte")
        void anEmptyMessageIsOneZeroByte() throws Exception {
            echoes("c1 81 00 00 00 00 00", "81 00");
            echoes("c2 81 00 00 00 00 00".repeat(3), "82 00".repeat(3));
            echoes("41 81 00 00 00 00 00 80 80 00 00 00 00", "81 00");
            echoes("c1 82 00 00 00 00 02 00", "81 00");
            echoes("c1 83 00 00 00 00 03 00 00", "81 00");
        }

        @Test
        @DisplayName("§6 compressed and plain messages alternate, and each stands alone")
        void compressedAndPlainMessagesAlternate() throws Exception {
            String compressed = "c1 87 37 fa 21 3d c5 b2 ec f4 fe fd 21";
            String plain = "81 85 37 fa 21 3d 7f 9f 4d 51 58", bfinal =
                    "c1 88 00 00 00 00 f3 48 cd c9 c9 07 00 00";
            echoes(compressed + plain + compressed + bfinal + compressed + plain + bfinal + bfinal
                    + "01 80 00 00 00 00 80 80 00 00 00 00" + compressed,
                    "81 05 48 65 6c 6c 6f".repeat(8) + "81 00" + "81 05 48 65 6c 6c 6f");
        }

        @Test
        @DisplayName("§7.1.1.2, §7.2.2 each message has a window of its own, as was agreed")
        void eachMessageHasAWindowOfItsOwn() throws Exception {
            bothWays(chat, "/echo", raw -> {       // §7.2.3.2: the second refers to the first
                raw.hex("c1 87 37 fa 21 3d c5 b2 ec f4 fe fd 21");
                assertEquals("Hello", raw.line());
                raw.hex("c1 85 37 fa 21 3d c5 fa 30 3d 37").assertClosed(1007);
            }, OFFER);
            // but within a message the window goes on
            echoes(hex(masked(0xc1, bytes("f2 48 cd c9 c9 07 00 00 00 ff ff f2 00 11 00 00"))),
                    "81 0a 48 65 6c 6c 6f 48 65 6c 6c 6f");
        }

        @Test
        @DisplayName("§6.1 RSV1 stands on a message's first frame and nowhere else")
        void rsv1StandsOnAFirstFrame() throws Exception {
            for (String bad : List.of("c8 80", "c9 80", "ca 80", "40 80", "c0 80", "91 80", "a1 80",
                    "d1 80", "e1 80", "f1 80", "c3 80", "cb 80")) {
                fails(1002, bad);
                fails(1002, "41 83 00 00 00 00 f2 48 cd" + bad);
                fails(1002, "01 83 00 00 00 00 41 42 43" + bad);
            }
        }

        @Test
        @DisplayName("§7.2.1 compressed data is never empty")
        void compressedDataIsNeverEmpty() throws Exception {
            fails(1002, "c1 80 37 fa 21 3d");
            fails(1002, "c2 80 37 fa 21 3d");
            fails(1002, "41 80 37 fa 21 3d 00 80 37 fa 21 3d 80 80 37 fa 21 3d");
            echoes("41 80 00 00 00 00 80 87 37 fa 21 3d c5 b2 ec f4 fe fd 21",
                    "81 05 48 65 6c 6c 6f");
        }

        @ParameterizedTest
        @DisplayName("§7.2.2 what is not DEFLATE data is 1007")
        @ValueSource(strings = {"ff", "06", "07 00", "ff ff ff ff",
            "00 05 00 fa fe 48 65 6c 6c 6f 00", "f2 00 11 00 00",
            "78 9c f3 48 cd c9 c9 07 00 05 8c 01 f5",
            "1f 8b 08 00 00 00 00 00 00 03 f3 48 cd c9 c9 07 00 82 89 d1 f7 05 00 00 00",
            "f3 48 cd c9 c9 07 00 ff"})
        void whatIsNotDeflateIs1007(String payload) throws Exception {
            fails(1007, hex(masked(0xc1, bytes(payload))));
            fails(1007, hex(masked(0xc2, bytes(payload))));
        }

        @Test
        @DisplayName("§6.1, RFC 6455 §8.1 inflated text is UTF-8, or 1007")
        void inflatedTextIsUtf8() throws Exception {
            for (String bad : List.of("ff", "c3", "ed a0 80", "61 e2 82", "f4 90 80 80")) {
                byte[] text = join(utf8("x".repeat(5000)), bytes(bad));
                try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                    raw.frame(0xc2, deflate(text));
                    assertArrayEquals(text, inflate(raw.frame().payload()));
                    raw.frame(0xc1, deflate(text)).assertClosed(1007);
                }
                fails(1007, hex(masked(0xc1, deflate(bytes(bad)))));
            }
            echoes(hex(masked(0xc1, deflate(utf8("é€😀")))), "81 09 " + hex(utf8("é€😀")));
        }

        @Test
        @DisplayName("§8, RFC 6455 §10.4 the limit is that of the inflated message: a bomb is 1009")
        void aBombIs1009() throws Exception {
            byte[] limit = new byte[1 << 20];
            for (int opcode : new int[] {0xc1, 0xc2})
                try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                    raw.frame(opcode, deflate(limit));
                    assertArrayEquals(limit, inflate(raw.frame().payload()));
                    raw.frame(opcode, deflate(new byte[limit.length + 1])).assertClosed(1009);
                }
            byte[] bomb = deflate(new byte[200 << 20]);       // 200 MiB in 200 kB
            assertTrue(bomb.length < limit.length);
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                raw.frame(0xc1, bomb).assertClosed(1009);
            }
            try (Chat small = chat("--max-message=10")) {
                assertEcho(small, hex(masked(0xc1, deflate(new byte[10]))),
                        "81 0a" + "00".repeat(10), OFFER);
                assertFails(small, 1009, hex(masked(0xc1, deflate(new byte[11]))), OFFER);
                assertFails(small, 1009, "c1 fe 00 80 00 00 00 00", OFFER); // too large before
            }
        }

        @Test
        @DisplayName("§10.4 a message within the limit passes, though compressing made it longer")
        void whatCannotBeCompressedPasses() throws Exception {
            byte[] noise = new byte[1 << 20];
            new Random(7692).nextBytes(noise);
            assertTrue(deflate(noise).length > noise.length);
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                Frame back = raw.frame(0xc2, deflate(noise)).frame();
                assertEquals(0x82, back.first() & 0xff);
                assertArrayEquals(noise, back.payload());
            }
        }

        @Test
        @DisplayName("§10.4 so does one of small blocks, as of a deflater that has little memory")
        void whatComesInSmallBlocksPasses() throws Exception {
            int size = 127;                     // with zlib's memLevel 1 a block has no more
            byte[] noise = new byte[1 << 20];
            new Random(7692).nextBytes(noise);
            var blocks = new ByteArrayOutputStream();
            for (int from = 0; from < noise.length; from += size) {
                int length = Math.min(size, noise.length - from);
                blocks.writeBytes(bytes("00 %02x 00 %02x ff".formatted(length, 255 - length)));
                blocks.write(noise, from, length);
            }
            blocks.write(0);                                    // §7.2.1: an empty block's start
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                Frame back = raw.frame(0xc2, blocks.toByteArray()).frame();
                assertEquals(0x82, back.first() & 0xff, back.code() + "");
                assertArrayEquals(noise, back.payload());
                raw.bye();
            }
        }

        @Test
        @DisplayName("§7.2.2 what ends inside a block is 1007, not the beginning of a message")
        void whatEndsInsideABlockIs1007() throws Exception {
            byte[] text = new byte[3000];
            new Random(7692).nextBytes(text);
            for (byte[] whole : List.of(deflate(text), deflate(utf8("Hello, hello, hello"))))
                for (int cut : new int[] {2, 3, whole.length / 2}) {
                    byte[] part = Arrays.copyOf(whole, whole.length - cut);
                    fails(1007, hex(masked(0xc2, part)));
                }
        }

        @Test
        @DisplayName("§7.2.3.4 half a million final blocks in a message are no trouble")
        void manyFinalBlocksAreNoTrouble() throws Exception {
            byte[] start = deflate(new byte[1 << 19]), blocks = new byte[1 << 20];
            System.arraycopy(join(start, bytes("00 00 ff ff")), 0, blocks, 0, start.length + 4);
            for (int i = start.length + 4; i < blocks.length - 2; i += 2) blocks[i] = 3;
            blocks[blocks.length - 1] = 0;
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                raw.frame(0xc2, blocks);
                assertArrayEquals(new byte[1 << 19], inflate(raw.frame().payload()));
                raw.bye();
            }
        }

        @Test
        @DisplayName("§6.1, §7.2.1 messages go out compressed from 1 KiB on, each by itself")
        void messagesGoOutCompressedFrom1KiBOn() throws Exception {
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                for (int size : new int[] {0, 1, 100, 1023, 1024, 1025, 65535, 65536, 1 << 20})
                    for (int opcode : new int[] {0x81, 0x82, 0x81}) {
                        byte[] message = utf8("Hello ".repeat(size / 6 + 1).substring(0, size));
                        raw.frame(opcode, message);
                        Frame frame = raw.frame();
                        assertEquals(size < 1024 ? opcode : opcode | 0x40, frame.first());
                        assertArrayEquals(message, size < 1024 ? frame.payload()
                                : inflate(frame.payload()));
                    }
                byte[] noise = new byte[5000];
                new Random(1).nextBytes(noise);
                raw.frame(0x82, noise);                   // compressed it would only be longer
                Frame frame = raw.frame();
                assertEquals(0x82, frame.first());
                assertArrayEquals(noise, frame.payload());
                raw.bye();
            }
        }

        @Test
        @DisplayName("§7.2.1 whatever the compressed length, the tail is cut off once")
        void whateverTheLengthTheTailIsCutOffOnce() throws Exception {
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                var random = new Random(7692);
                var lengths = new TreeSet<Integer>();
                for (int size = 13_400; size < 14_400; size += 2) {
                    byte[] half = new byte[size / 2];
                    random.nextBytes(half);
                    String text = HexFormat.of().formatHex(half);
                    raw.text(text);
                    Frame frame = raw.frame();
                    assertEquals(0xc1, frame.first());
                    lengths.add(frame.payload().length);
                    assertArrayEquals(utf8(text), inflate(frame.payload()));
                }
                // the lengths lie around 8192, where buffers like to end
                assertTrue(lengths.first() < 8192 && lengths.last() > 8192, lengths.toString());
                raw.bye();
            }
        }

        @Test
        @DisplayName("§6 in a room each gets what he agreed to, and the same line")
        void inARoomEachGetsWhatHeAgreedTo() throws Exception {
            try (Raw plain = Raw.open(chat, "/chat/deflate");
                    Raw ada = Raw.open(chat, "/chat/deflate", OFFER);
                    Raw bob = Raw.open(chat, "/chat/deflate", OFFER + "; client_max_window_bits")) {
                for (Raw raw : List.of(plain, ada, bob)) raw.assertNothingMore();
                for (int i = 0; i < 3; i++) {
                    ada.frame(0xc1, deflate(utf8("Hello ".repeat(1000) + i)));
                    String line = plain.line();
                    assertTrue(line.endsWith(": " + "Hello ".repeat(1000) + i), line);
                    Frame first = ada.frame(), second = bob.frame();
                    assertEquals(0xc1, first.first());
                    assertEquals(0xc1, second.first());
                    assertArrayEquals(utf8(line), inflate(first.payload()));
                    assertArrayEquals(first.payload(), second.payload());
                }
                for (Raw raw : List.of(plain, ada, bob)) raw.assertNothingMore();
            }
        }

        @Test
        @DisplayName("§6.2 messages of all kinds and sizes, compressed by someone else, come back")
        void messagesOfAllKindsComeBack() throws Exception {
            var random = new Random(62);
            try (Raw raw = Raw.open(chat, "/echo", OFFER)) {
                for (int level = -1; level <= 9; level++)
                    for (int strategy = 0; strategy <= 2; strategy++)
                        for (int size : new int[] {1, 10, 1000, 40_000, 200_000}) {
                            byte[] message = new byte[size];
                            for (int i = 0; i < size; i++)
                                message[i] = (byte) ("Hello\n".charAt(i % 6) + random.nextInt(2));
                            raw.write(compressed(message, level, strategy, random));
                            Frame frame = raw.frame();
                            assertArrayEquals(message, frame.first() == 0x82 ? frame.payload()
                                    : inflate(frame.payload()));
                        }
                raw.bye();
            }
        }

        /// A binary message, flushed now and then on the way, cut into fragments anywhere.
        private static byte[] compressed(byte[] message, int level, int strategy, Random random) {
            var deflater = new Deflater(level, true);
            deflater.setStrategy(strategy);
            var out = new ByteArrayOutputStream();
            byte[] buffer = new byte[1 << 19];
            for (int at = 0; at < message.length; ) {
                int step = Math.min(message.length - at, 1 + random.nextInt(50_000));
                deflater.setInput(message, at, step);
                at += step;
                int flush = at == message.length || random.nextBoolean() ? Deflater.SYNC_FLUSH
                        : Deflater.FULL_FLUSH;
                for (int idle = 0; idle < 2; ) {      // one that changes its strategy first idles
                    int got = deflater.deflate(buffer, 0, buffer.length, flush);
                    out.write(buffer, 0, got);
                    if (got == 0) idle++;
                }
            }
            deflater.end();
            byte[] all = Arrays.copyOf(out.toByteArray(), out.size() - 4);
            int a = random.nextInt(all.length), b = a + random.nextInt(all.length - a);
            return join(masked(0x42, Arrays.copyOf(all, a)),
                    masked(0x00, Arrays.copyOfRange(all, a, b)),
                    masked(0x80, Arrays.copyOfRange(all, b, all.length)));
        }
    }

    // ---- The client (RFC 6455 §4.1, §5.3, §7.1.1) ---------------------------------------------

    @Nested
    @DisplayName("The client")
    class Client extends Served {
        private static final String OFFER = "permessage-deflate; server_no_context_takeover; "
                + "client_no_context_takeover";

        /// What a server of raw bytes does, once it has read the request.
        interface Answer { void to(Raw client, String request) throws Exception; }

        /// A server for one client.
        private static final class RawServer implements AutoCloseable {
            final ServerSocket listener =
                    new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
            private final FutureTask<Void> served;

            RawServer(Answer answer) throws IOException {
                served = new FutureTask<>(() -> {
                    try (Raw client = new Raw(listener.accept())) {
                        answer.to(client, client.readHead());
                    }
                    return null;
                });
                Thread.startVirtualThread(served);
            }

            URI uri() { return URI.create("ws://127.0.0.1:" + listener.getLocalPort() + "/chat"); }

            /// Waits until it has done all, and fails if that failed.
            @Override
            public void close() throws IOException {
                try (listener) {
                    served.get(PATIENCE, TimeUnit.SECONDS);
                } catch (ExecutionException failed) {
                    throw new AssertionError("the server's part has failed", failed.getCause());
                } catch (InterruptedException | TimeoutException stuck) {
                    throw new AssertionError("the server's part has no end", stuck);
                }
            }
        }

        /// §4.2.2 with these headers instead of, or besides, the usual ones; `-Upgrade` is without.
        private static String answer(String request, String... headers) throws Exception {
            Matcher key = Pattern.compile("\r\nSec-WebSocket-Key: (\\S+)\r\n").matcher(request);
            assertTrue(key.find(), request);
            byte[] sha = MessageDigest.getInstance("SHA-1").digest(utf8(key.group(1)
                    + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
            var lines = new ArrayList<>(List.of("Upgrade: websocket", "Connection: Upgrade",
                    "Sec-WebSocket-Accept: " + Base64.getEncoder().encodeToString(sha)));
            for (String header : headers)
                lines.removeIf(usual -> usual.split(":")[0].equalsIgnoreCase(
                        header.replaceFirst("^-", "").split(":")[0]));
            Stream.of(headers).filter(header -> !header.startsWith("-")).forEach(lines::add);
            return "HTTP/1.1 101 Switching Protocols\r\n" + String.join("\r\n", lines)
                    + "\r\n\r\n";
        }

        /// Answers as it should be, and goes on with the script.
        private static RawServer open(Script script, String... headers) throws IOException {
            return new RawServer((client, request) ->
                    script.run(client.ascii(answer(request, headers))));
        }

        /// A frame of a client: it has a mask (§5.1).
        private record Masked(int first, String key, byte[] payload) {
            static Masked read(Raw raw) throws IOException {
                int first = raw.read(1)[0] & 0xff;
                int second = raw.read(1)[0] & 0xff;
                assertTrue(second >= 0x80, "a client must mask (§5.1)");
                long length = switch (second & 0x7f) {
                    case 126 -> ByteBuffer.wrap(raw.read(2)).getChar();
                    case 127 -> ByteBuffer.wrap(raw.read(8)).getLong();
                    default -> second & 0x7f;
                };
                byte[] key = raw.read(4);
                byte[] payload = raw.read((int) length);
                for (int i = 0; i < payload.length; i++) payload[i] ^= key[i % 4];
                return new Masked(first, hex(key), payload);
            }

            @Override
            public String toString() {
                return "%02x %s".formatted(first, new String(payload, StandardCharsets.UTF_8));
            }
        }

        private static byte[] plain(int first, byte... payload) {
            return join(new byte[] {(byte) first, (byte) payload.length}, payload);
        }

        private static Chat.WebSocket.Settings settings(boolean deflate, Queue<String> log) {
            var settings = ChatTest.settings(log::add);
            settings.deflate = deflate;
            return settings;
        }

        private static Chat.WebSocket connect(RawServer server, String... subprotocols)
                throws IOException {
            return Chat.WebSocket.connect(server.uri(), settings(true, new LinkedBlockingQueue<>()),
                    List.of(), List.of(subprotocols));
        }

        private static Chat.WebSocket.Refusal refused(RawServer server, String... subprotocols) {
            return assertThrows(Chat.WebSocket.Refusal.class, () -> connect(server, subprotocols));
        }

        private URI echo() {
            return URI.create("ws://localhost:" + chat.webSocketPort() + "/echo");
        }

        // -- The opening handshake --

        @Test
        @DisplayName("§1.3, §5.7 the RFC's own key is checked, its own frames are made")
        void theRfcsExamples() throws Exception {
            var headers = new TreeMap<String, String>(String.CASE_INSENSITIVE_ORDER);
            headers.putAll(Map.of("Upgrade", "websocket", "Connection", "Upgrade",
                    "Sec-WebSocket-Accept", ACCEPT, "Sec-WebSocket-Protocol", "chat"));
            var answer = new Chat.WebSocket.Head("HTTP/1.1 101 Switching Protocols", headers);
            Chat.WebSocket.Handshake.checkAnswer(answer, KEY, false, List.of("chat", "superchat"));
            assertThrows(Chat.WebSocket.Refusal.class, () -> Chat.WebSocket.Handshake.checkAnswer(
                    answer, "AQIDBAUGBwgJCgsMDQ4PEC==", false, List.of("chat")));
            var header = new Chat.WebSocket.Header(true, 0, Chat.WebSocket.TEXT, true, 0x37fa213d,
                    5);
            assertEquals("81 85 37 fa 21 3d 7f 9f 4d 51 58", hex(header.encode(utf8("Hello"))));
        }

        @Test
        @DisplayName("§4.1 the request has all that it must have, and what is given")
        void theRequest() throws Exception {
            var keys = new HashSet<String>();
            for (String[] target : new String[][] {{"/chat/tea?a=%20b", "/chat/tea?a=%20b"},
                    {"", "/"}, {"?x", "/?x"}, {"/é", "/%C3%A9"}}) {
                var heard = new CompletableFuture<String>();
                try (var server = new RawServer((client, request) -> {
                    heard.complete(request);
                    client.ascii(answer(request, "Sec-WebSocket-Protocol: b"));
                    client.write(plain(0x88)).read(6);
                })) {
                    int port = server.listener.getLocalPort();
                    var uri = URI.create("WS://127.0.0.1:" + port + target[0]);
                    try (var webSocket = Chat.WebSocket.connect(uri, settings(true,
                            new LinkedBlockingQueue<>()), List.of("Origin: https://a", "X: y"),
                            List.of("a", "b"))) {
                        assertEquals("b", webSocket.protocol());
                        assertEquals(target[1].replaceFirst("\\?.*", ""), webSocket.path());
                        assertNull(webSocket.receive());
                    }
                    String request = heard.get();
                    String key = request.replaceFirst("(?s).*-Key: (\\S+)\r\n.*", "$1");
                    assertEquals(16, Base64.getDecoder().decode(key).length, request);
                    assertTrue(keys.add(key), "the same key again");
                    assertEquals(String.join("\r\n", "GET " + target[1] + " HTTP/1.1",
                            "Host: 127.0.0.1:" + port, "Connection: Upgrade",
                            "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                            "Sec-WebSocket-Key: " + key, "Sec-WebSocket-Protocol: a, b",
                            "Sec-WebSocket-Extensions: " + OFFER, "Origin: https://a",
                            "X: y", "", ""), request);
                }
            }
        }

        @Test
        @DisplayName("§3, §4.1 what can't stand in a request is refused before anything is sent")
        void whatCannotStandInARequest() throws Exception {
            try (var listener = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"))) {
                String host = "127.0.0.1:" + listener.getLocalPort();
                for (String uri : List.of("http://" + host, "ws:" + host, "/chat", "ws://a_b/",
                        "ws://" + host + "/#there", "ws://ada:secret@" + host + "/")) {
                    var wrong = assertThrows(IllegalArgumentException.class,
                            () -> Chat.WebSocket.connect(URI.create(uri)), uri);
                    assertFalse(wrong.getMessage().contains("secret"), wrong.getMessage());
                }
                var uri = URI.create("ws://" + host);
                for (String name : List.of("", "a b", "a,b", "a\r\nX: y", "é", "\"a\""))
                    assertThrows(IllegalArgumentException.class,
                            () -> Chat.WebSocket.connect(uri, name), name);
                assertThrows(IllegalArgumentException.class,
                        () -> Chat.WebSocket.connect(uri, "a", "b", "a"));
                for (String header : List.of("X", ": y", "X : y", "X: y\r\nZ: z", "X: y\nZ: z",
                        "X: \0", "X\r\n\r\nGET /: z", "é: z", ""))
                    assertThrows(IllegalArgumentException.class, () -> Chat.WebSocket.connect(uri,
                            new Chat.WebSocket.Settings(), List.of(header), List.of()), header);
                listener.setSoTimeout(1);
                assertThrows(SocketTimeoutException.class, listener::accept);
            }
        }

        @ParameterizedTest
        @DisplayName("§4.1 an answer that keeps the rules in an unusual form will do")
        @ValueSource(strings = {"", "upgrade: WebSocket", "CONNECTION: keep-alive, UPGRADE",
            "Connection: upgrade\r\nconnection: x", "Server: é\r\nSet-Cookie: a=b\r\nX:",
            "Sec-WebSocket-Protocol: b", "Sec-WebSocket-Extensions:",
            "Sec-WebSocket-Extensions: permessage-deflate;server_no_context_takeover",
            "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; "
                + "server_max_window_bits=\"10\" ; server_no_context_takeover"})
        void anUnusualAnswer(String headers) throws Exception {
            for (boolean cut : List.of(false, true))
                try (var server = new RawServer((client, request) -> {
                    client.cut = cut;
                    String answer = answer(request, headers.isEmpty() ? new String[0]
                            : headers.split("\r\n"));
                    client.write(join(utf8(answer), plain(0x81, utf8("at once"))));
                    assertEquals(0x88, Masked.read(client).first);
                    client.write(plain(0x88, bytes("03 e8")));
                }); var webSocket = connect(server, "a", "b")) {
                    assertEquals("at once", webSocket.receive().text());
                    String protocol = headers.contains("-Protocol") ? "b" : null;
                    assertEquals(protocol, webSocket.protocol());
                }
        }

        @ParameterizedTest
        @DisplayName("§4.1 an answer that breaks a rule fails the connection, and says which")
        @ValueSource(strings = {"-Upgrade", "Upgrade:", "Upgrade: websockets",
            "Upgrade: h2c, websocket", "-Connection", "Connection:", "Connection: close",
            "Connection: Upgrades", "-Sec-WebSocket-Accept", "Sec-WebSocket-Accept:",
            "Sec-WebSocket-Accept: " + ACCEPT, "Sec-WebSocket-Protocol: c",
            "Sec-WebSocket-Protocol: A", "Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: a, b",
            "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a",
            "Sec-WebSocket-Extensions: x-webkit-deflate-frame",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover",
            "Sec-WebSocket-Extensions: " + OFFER + "; server_no_context_takeover",
            "Sec-WebSocket-Extensions: " + OFFER + "; client_max_window_bits=15",
            "Sec-WebSocket-Extensions: " + OFFER + "; server_max_window_bits",
            "Sec-WebSocket-Extensions: " + OFFER + "; server_max_window_bits=7",
            "Sec-WebSocket-Extensions: " + OFFER + "; server_max_window_bits=16",
            "Sec-WebSocket-Extensions: " + OFFER + "; mux_no_context_takeover",
            "Sec-WebSocket-Extensions: " + OFFER + ", " + OFFER,
            "Sec-WebSocket-Extensions: " + OFFER + ";", "Sec-WebSocket-Extensions: ;",
            "no colon", ": no name", "X y: z", "X: \u007f"})
        void anAnswerThatBreaksARule(String headers) throws Exception {
            try (var server = new RawServer((client, request) -> {
                client.ascii(answer(request, headers.split("\r\n")));
                assertThrows(SocketException.class, client.in::read);           // cut off
            })) {
                Chat.WebSocket.Refusal refusal = refused(server, "a", "b");
                assertEquals(400, refusal.code);
                assertTrue(refusal.getMessage().contains("§"), refusal.getMessage());
            }
        }

        @Test
        @DisplayName("RFC 7692 §7.1 compression that was not offered may not be agreed on")
        void compressionThatWasNotOffered() throws Exception {
            try (var server = new RawServer((client, request) -> {
                assertFalse(request.contains("Extensions"), request);
                client.ascii(answer(request, "Sec-WebSocket-Extensions: " + OFFER));
            })) {
                var settings = settings(false, new LinkedBlockingQueue<>());
                assertEquals(400, assertThrows(Chat.WebSocket.Refusal.class,
                        () -> Chat.WebSocket.connect(server.uri(), settings, List.of(), List.of()))
                        .code);
            }
        }

        @ParameterizedTest
        @DisplayName("§4.1 any status but 101 is a failure with this status; nothing is followed")
        @CsvSource({"200 OK", "100 Continue", "301 Moved Permanently", "302 Found",
            "307 Temporary Redirect", "401 Unauthorized", "403 \u001b[31mForbidden", "404",
            "426 Upgrade Required", "500 Oh", "503 "})
        void anyOtherStatus(String line) throws Exception {
            try (var server = new RawServer((client, request) -> client.ascii("HTTP/1.1 " + line
                    + "\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"))) {
                Chat.WebSocket.Refusal refusal = refused(server);
                assertEquals(Integer.parseInt(line.substring(0, 3)), refusal.code);
                assertTrue(refusal.getMessage().contains(line.replace("\u001b", "\\u{1b}"))
                        && refusal.getMessage().contains("/there"), refusal.getMessage());
            }
            try (var server = new RawServer((client, request) -> client.ascii("HTTP/1.0 " + line
                    + "\r\n\r\n"))) {
                assertEquals(Integer.parseInt(line.substring(0, 3)), refused(server).code);
            }
        }

        @Test
        @DisplayName("what is no answer at all fails the connection")
        void whatIsNoAnswerAtAll() throws Exception {
            for (String garbage : List.of("\r\n\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1\r\n\r\n",
                    "HTTP/1.1 1O1 x\r\n\r\n", "HTTP/2 101\r\n\r\n", "HTTP/1.1 0101\r\n\r\n",
                    "\n", "HTTP/1.1 101\r\n\n", "\0\0\0", "\u0016\u0003")) {
                boolean endless = garbage.startsWith("\0");
                try (var server = new RawServer((client, request) -> {
                    client.ascii(endless ? garbage.repeat(10_000) : garbage);
                    assertThrows(SocketException.class, client.in::read);
                })) {
                    assertEquals(endless ? 431 : 400, refused(server).code, garbage);
                }
            }
        }

        @Test
        @DisplayName("a server that isn't there, or goes before its answer is whole, is told")
        void whoGoesBeforeTheAnswerIsWhole() throws Exception {
            for (String start : List.of("", "H", "HTTP/1.1 101 Switching Protocols\r\n"))
                try (var server = new RawServer((client, request) -> client.ascii(start))) {
                    var failure = assertThrows(EOFException.class, () -> connect(server));
                    assertTrue(failure.getMessage().contains("hung up"), failure.getMessage());
                }
            int free;
            try (var listener = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"))) {
                free = listener.getLocalPort();
            }
            assertThrows(ConnectException.class, () -> Chat.WebSocket.connect(
                    URI.create("ws://127.0.0.1:" + free)));
        }

        @Test
        @DisplayName("§4.1 handshake and closing have their time, however the bytes trickle in")
        void handshakeAndClosingHaveTheirTime() throws Exception {
            Answer silent = (client, request) -> assertThrows(SocketException.class,
                    client.in::read);
            Answer trickles = (client, request) -> {
                assertThrows(SocketException.class, () -> {
                    while (true) {
                        client.ascii("H");
                        Thread.sleep(200);
                    }
                });
            };
            Script deaf = client -> {
                Masked.read(client);
                assertThrows(SocketException.class, () -> {
                    while (true) {
                        client.write(plain(0x89));
                        Thread.sleep(200);
                    }
                });
            };
            try (var first = new RawServer(silent); var second = new RawServer(trickles);
                    var third = open(deaf);
                    var secret = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
                    var threads = Executors.newVirtualThreadPerTaskExecutor()) {
                var wss = URI.create("wss://127.0.0.1:" + secret.getLocalPort());
                var log = new LinkedBlockingQueue<String>();
                var late = new ArrayList<Future<SocketTimeoutException>>();
                for (Callable<?> call : List.<Callable<?>>of(() -> connect(first),
                        () -> connect(second), () -> Chat.WebSocket.connect(wss,
                        settings(true, log), List.of(), List.of())))
                    late.add(threads.submit(() -> assertThrows(SocketTimeoutException.class,
                            call::call)));
                var webSocket = Chat.WebSocket.connect(third.uri(), settings(true, log), List.of(),
                        List.of());
                webSocket.close(4000, "");
                assertNull(webSocket.receive());
                assertEquals(1006, webSocket.closeCode());
                for (var each : late) {
                    String message = each.get(PATIENCE, TimeUnit.SECONDS).getMessage();
                    assertTrue(message.contains(Chat.WebSocket.HANDSHAKE_TIME + " s"), message);
                }
                assertTrue(log.size() <= 1, "told again and again: " + log);
            }
        }

        // -- Frames and messages --

        @Test
        @DisplayName("§5.1, §5.3 each frame is masked, with a key that nobody can foretell")
        void eachFrameHasANewKey() throws Exception {
            try (var server = open(client -> {
                var keys = new HashSet<String>();
                for (int i = 0; i < 200; i++) {
                    Masked frame = Masked.read(client);
                    assertEquals("81 Hello", frame.toString());
                    keys.add(frame.key);
                }
                assertEquals(200, keys.size(), keys::toString);
                client.write(plain(0x89, utf8("are you there?")));
                assertEquals("8a are you there?", Masked.read(client).toString());
                client.write(plain(0x82, bytes("00 ff")));
                assertEquals("89 ", Masked.read(client).toString());
                client.write(plain(0x8a));
                assertEquals(0x88, Masked.read(client).first);
                client.write(plain(0x88, bytes("03 e8")));
            }); var webSocket = connect(server)) {
                var hello = Chat.WebSocket.Message.text("Hello");
                for (int i = 0; i < 200; i++) assertTrue(webSocket.send(hello));
                assertEquals("00 ff", hex(webSocket.receive().payload()));
                webSocket.ping();
            }
        }

        @ParameterizedTest
        @DisplayName("§5, §7.1.7 a server that breaks a rule is told which: the client ends it")
        @CsvSource({"81 80 00 00 00 00, 1002", "88 82 00 00 00 00 03 e8, 1002", "83 00, 1002",
            "a1 00, 1002", "80 00, 1002", "81 7e 00 05, 1002", "89 7e, 1002", "09 00, 1002",
            "81 01 ff, 1007", "c1 01 ff, 1007", "c1 00, 1002", "88 01 00, 1002",
            "88 02 03 ed, 1002", "82 7f 00 00 00 00 00 10 00 01, 1009"})
        void aServerThatBreaksARule(String bad, int code) throws Exception {
            try (var server = open(client -> {
                Masked last = Masked.read(client.hex(bad));
                assertEquals(0x88, last.first, last::toString);
                assertEquals(code, new Frame(0x88, last.payload).code(), last::toString);
                client.socket.setSoTimeout(200);
                assertThrows(SocketTimeoutException.class, client.in::read);    // §7.1.1
            }, "Sec-WebSocket-Extensions: " + OFFER); var webSocket = connect(server)) {
                var refusal = assertThrows(Chat.WebSocket.Refusal.class, webSocket::receive);
                assertEquals(code, refusal.code);
                assertTrue(refusal.getMessage().contains("§"), refusal.getMessage());
                assertEquals(Chat.WebSocket.State.CLOSED, webSocket.state());
                assertNull(webSocket.receive());
            }
        }

        @Test
        @DisplayName("§5.4 fragments, compressed ones too, with a ping in between, are one message")
        void fragments() throws Exception {
            try (var server = open(client -> {
                client.hex("01 03 48 65 6c 89 01 3f 80 02 6c 6f");
                client.hex("41 03 f2 48 cd 80 04 c9 c9 07 00");       // RFC 7692 §7.2.3.1
                assertEquals("8a ?", Masked.read(client).toString());
                client.hex("88 00");
            }, "Sec-WebSocket-Extensions: " + OFFER); var webSocket = connect(server)) {
                assertEquals("Hello", webSocket.receive().text());
                assertEquals("Hello", webSocket.receive().text());
                assertNull(webSocket.receive());
                assertEquals(1005, webSocket.closeCode());
            }
        }

        @ParameterizedTest
        @DisplayName("RFC 7692 §7.2 a long message goes out compressed, if that was agreed on")
        @CsvSource({"'', 82", "Sec-WebSocket-Extensions:, 82",
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover, c2"})
        void aLongMessageGoesOutCompressed(String header, String first) throws Exception {
            byte[] message = utf8("Hello ".repeat(1000));
            try (var server = open(client -> {
                Masked frame = Masked.read(client);
                assertEquals(first, hex((byte) frame.first));
                assertArrayEquals(message, first.equals("82") ? frame.payload
                        : Compression.inflate(frame.payload));
            }, header.isEmpty() ? new String[0] : new String[] {header});
                    var webSocket = connect(server)) {
                webSocket.send(new Chat.WebSocket.Message(false, message));
                assertNull(webSocket.receive());
            }
        }

        @Test
        @DisplayName("§7.1.5 a server that goes in the middle of anything: 1006")
        void aServerThatGoes() throws Exception {
            for (String start : List.of("", "81", "81 05 48", "01 01 48", "88 02 03", "81 7e 00"))
                for (boolean reset : List.of(false, true))
                    try (var server = open(client -> {
                        client.hex(start);
                        if (reset) client.reset();
                    }); var webSocket = connect(server)) {
                        assertNull(webSocket.receive());
                        assertEquals(1006, webSocket.closeCode());
                        assertEquals(Chat.WebSocket.State.CLOSED, webSocket.state());
                        assertFalse(webSocket.send(Chat.WebSocket.Message.text("late")));
                    }
        }

        // -- Closing --

        @Test
        @DisplayName("§7.1.5 the server's code and reason are told, and its code is the answer")
        void theServerCloses() throws Exception {
            for (String[] close : new String[][] {{"", "1005"}, {"03 e8", "1000"},
                    {"0f a0 c3 a9", "4000é"}, {"03 f3", "1011"}})
                try (var server = open(client -> {
                    client.write(plain(0x81, utf8("last"))).write(plain(0x88, bytes(close[0])));
                    Masked answer = Masked.read(client);
                    assertEquals(0x88, answer.first);
                    assertEquals(close[0].isEmpty() ? "" : close[0].substring(0, 5),
                            hex(answer.payload));
                }); var webSocket = connect(server)) {
                    assertEquals("last", webSocket.receive().text());
                    assertNull(webSocket.receive());
                    assertEquals(close[1], webSocket.closeCode() + webSocket.closeReason());
                }
        }

        @Test
        @DisplayName("§7.1.1, §7.1.2 after its own Close the client hears what was on its way, and "
                + "waits for the server to end TCP")
        void theClientCloses() throws Exception {
            try (var server = open(client -> {
                Masked close = Masked.read(client);
                assertEquals("88 0f a1 62 79 65", hex((byte) close.first) + " "
                        + hex(close.payload));
                client.write(plain(0x81, utf8("on its way"))).write(plain(0x89));
                client.write(plain(0x88, bytes("0f a1")));
                client.socket.setSoTimeout(200);
                assertThrows(SocketTimeoutException.class, client.in::read);
            }); var webSocket = connect(server)) {
                webSocket.close(4001, "bye");
                assertFalse(webSocket.send(Chat.WebSocket.Message.text("late")));
                assertEquals("on its way", webSocket.receive().text());
                assertNull(webSocket.receive());
                assertEquals(4001, webSocket.closeCode());
            }
        }

        @Test
        @DisplayName("who is cut off is watched no more: nothing is told of them again and again")
        void whoIsCutOffIsWatchedNoMore() throws Exception {
            var watched = (Set<?>) field(Chat.WebSocket.class, "LIVE").get(null);
            try (var server = open(client ->
                    assertThrows(SocketException.class, client.in::read))) {
                var log = new LinkedBlockingQueue<String>();
                var webSocket = Chat.WebSocket.connect(server.uri(), settings(true, log), List.of(),
                        List.of());
                assertTrue(watched.contains(webSocket));
                webSocket.cutOff("enough");
                assertFalse(watched.contains(webSocket));
                assertNull(webSocket.receive());
                assertEquals("[#" + webSocket.number() + " enough]", log.toString());
            }
        }

        // -- Against servers --

        @ParameterizedTest
        @DisplayName("§1.5 this server gives back what this client sends: all sizes, all kinds")
        @ValueSource(booleans = {false, true})
        void allSizesComeBack(boolean deflate) throws Exception {
            var log = new LinkedBlockingQueue<String>();
            try (var webSocket = Chat.WebSocket.connect(echo(), settings(deflate, log), List.of(),
                    List.of())) {
                var random = new Random(18);
                var sent = new ArrayList<Chat.WebSocket.Message>();
                for (int size : new int[] {0, 1, 2, 125, 126, 127, 1023, 1024, 1025, 4096, 65_535,
                        65_536, 65_537, 200_000, (1 << 20) - 1, 1 << 20}) {
                    byte[] noise = new byte[size];
                    random.nextBytes(noise);
                    sent.add(new Chat.WebSocket.Message(false, noise));
                    sent.add(new Chat.WebSocket.Message(true, utf8("x".repeat(size))));
                    sent.add(Chat.WebSocket.Message.text("é€😀".repeat(size / 9)));
                }
                Thread.startVirtualThread(() -> sent.forEach(webSocket::send));
                for (var message : sent) {
                    Chat.WebSocket.Message heard = webSocket.receive();
                    assertEquals(message.isText(), heard.isText());
                    assertArrayEquals(message.payload(), heard.payload());
                }
                webSocket.close(4321, "enough");
                assertNull(webSocket.receive());
                assertEquals(4321, webSocket.closeCode());
            }
            assertTrue(log.isEmpty(), log::toString);
        }

        @Test
        @DisplayName("§7.4 this server's refusals come to this client with their code and words")
        void refusalsComeWithTheirCode() throws Exception {
            URI nowhere = echo().resolve("/nowhere");
            assertEquals(404, assertThrows(Chat.WebSocket.Refusal.class,
                    () -> Chat.WebSocket.connect(nowhere)).code);
            try (var webSocket = Chat.WebSocket.connect(echo().resolve("/chat/client"),
                    Chat.Rooms.PRESENCE)) {
                assertEquals(Chat.Rooms.PRESENCE, webSocket.protocol());
                webSocket.send(new Chat.WebSocket.Message(false, new byte[1]));
                while (webSocket.receive() != null) continue;
                assertEquals(1003, webSocket.closeCode());
                assertTrue(webSocket.closeReason().contains("§5.6"), webSocket.closeReason());
            }
        }

        @Test
        @DisplayName("a stopping server's 1001 comes to all clients, who end in order")
        void aStoppingServer() throws Exception {
            Chat stopping = chat();
            var uri = URI.create("ws://localhost:" + stopping.webSocketPort() + "/echo");
            try (var threads = Executors.newVirtualThreadPerTaskExecutor()) {
                var codes = new ArrayList<Future<Integer>>();
                for (int i = 0; i < 20; i++) {
                    var webSocket = Chat.WebSocket.connect(uri);
                    codes.add(threads.submit(() -> {
                        while (webSocket.receive() != null) continue;
                        return webSocket.closeCode();
                    }));
                }
                stopping.close();
                for (var code : codes) assertEquals(1001, code.get(PATIENCE, TimeUnit.SECONDS));
            }
        }

        /// Node's ws as server: gives all back, closes with 4000 when it hears so.
        private static final String WS_SERVER = """
                const server = new WebSocket.WebSocketServer({ host: '127.0.0.1', port: 0,
                  perMessageDeflate: { threshold: 0 }, handleProtocols: offers => [...offers].pop(),
                  verifyClient: ({ req }, tell) =>
                    req.url === '/secret' ? tell(false, 401, 'who are you?') : tell(true) });
                server.on('listening', () => console.log(server.address().port));
                server.on('connection', socket => {
                  socket.on('message', (data, isBinary) => String(data) === 'close'
                    ? socket.close(4000, 'é') : socket.send(data, { binary: isBinary }));
                  socket.on('close', (code, reason) => console.log(`${code}${reason}`));
                });
                """;

        @ParameterizedTest
        @DisplayName("§1.5, RFC 7692 §7 Node's ws gives all back, compressed or not, and closes")
        @ValueSource(booleans = {false, true})
        void nodesWsGivesAllBack(boolean deflate) throws Exception {
            try (Program node = node(WS_SERVER)) {
                String base = "ws://127.0.0.1:" + node.next(node.out);
                var log = new LinkedBlockingQueue<String>();
                var settings = settings(deflate, log);
                var webSocket = Chat.WebSocket.connect(URI.create(base), settings, List.of(),
                        List.of("a", "b"));
                assertEquals("b", webSocket.protocol());
                var sent = new ArrayList<Chat.WebSocket.Message>();
                for (int size : new int[] {0, 1, 125, 126, 1024, 65_535, 65_536, 1 << 20}) {
                    sent.add(new Chat.WebSocket.Message(false, new byte[size]));
                    sent.add(new Chat.WebSocket.Message(true, utf8("x".repeat(size))));
                }
                sent.forEach(webSocket::send);
                for (var message : sent) {
                    Chat.WebSocket.Message heard = webSocket.receive();
                    assertEquals(message.isText(), heard.isText());
                    assertArrayEquals(message.payload(), heard.payload());
                }
                webSocket.close(4321, "enough");
                assertNull(webSocket.receive());
                assertEquals(4321, webSocket.closeCode());
                assertEquals("4321enough", node.next(node.out));
                try (var second = Chat.WebSocket.connect(URI.create(base), settings, List.of(),
                        List.of())) {
                    second.send(Chat.WebSocket.Message.text("close"));
                    assertNull(second.receive());
                    assertEquals("4000é", second.closeCode() + second.closeReason());
                }
                assertEquals("4000", node.next(node.out));
                assertEquals(401, assertThrows(Chat.WebSocket.Refusal.class,
                        () -> Chat.WebSocket.connect(URI.create(base + "/secret"))).code);
                assertTrue(log.isEmpty(), log::toString);
            }
        }

        @Test
        @DisplayName("§10.6 wss: only a certificate that is trusted, and has the host's name")
        void onlyACertificateWithTheHostsName() throws Exception {
            Path folder = temporary();
            String keys = folder.resolve("keys").toString(), password = "only for this test";
            makeKeys(keys, password, "san=dns:localhost");
            var store = KeyStore.getInstance(new File(keys), password.toCharArray());
            var trust = TrustManagerFactory.getInstance("PKIX");
            trust.init(store);
            SSLContext trusting = SSLContext.getInstance("TLS");
            trusting.init(null, trust.getTrustManagers(), null);
            var settings = ChatTest.settings(line -> { });
            settings.tls = trusting;
            try (Program secure = Program.under(List.of("env", "CHAT_KEYSTORE_PASSWORD="
                    + password), "--keystore", keys)) {
                int port = secure.ready().webSocketPort();
                var uri = URI.create("wss://localhost:" + port + "/echo");
                try (var webSocket = Chat.WebSocket.connect(uri, settings, List.of(), List.of())) {
                    webSocket.send(Chat.WebSocket.Message.text("x".repeat(100_000)));
                    assertEquals(100_000, webSocket.receive().payload().length);
                    webSocket.close(1000, "");
                    assertNull(webSocket.receive());
                    assertEquals(1000, webSocket.closeCode());
                }
                assertThrows(SSLException.class, () -> Chat.WebSocket.connect(uri));
                assertThrows(SSLException.class, () -> Chat.WebSocket.connect(
                        URI.create("wss://127.0.0.1:" + port + "/echo"), settings, List.of(),
                        List.of()));
                try (Program stranger = Program.chat("--connect=" + uri)) {
                    assertEquals(1, stranger.exit());
                    String line = stranger.err.element();
                    assertTrue(line.contains("trustStore"), line);
                }
            }
        }

        // -- The terminal --

        private static Program terminal(URI uri, String... options) throws Exception {
            return Program.chat(Stream.concat(Stream.of("--connect=" + uri), Stream.of(options))
                    .toArray(String[]::new));
        }

        private static void type(Program program, String text) throws IOException {
            program.process.getOutputStream().write(utf8(text));
            program.process.getOutputStream().flush();
        }

        @Test
        @DisplayName("--connect sends lines, prints messages, ends with its input: 1000, exit 0")
        void linesAndMessages() throws Exception {
            try (Program ada = terminal(echo())) {
                assertEquals("open: " + echo(), ada.next(ada.err));
                type(ada, "Hello\nwörld 😀\n\n");
                assertEquals("Hello", ada.next(ada.out));
                assertEquals("wörld 😀", ada.next(ada.out));
                assertEquals("", ada.next(ada.out));
                type(ada, "the last, without an end of line");
                ada.process.getOutputStream().close();
                assertEquals(0, ada.exit());
                assertEquals("[the last, without an end of line]", ada.out.toString());
                assertEquals("[closed with 1000, done]", ada.err.toString());
            }
        }

        @Test
        @DisplayName("--connect: a message can't steer the terminal, nor pass for two")
        void aMessageCannotSteerTheTerminal() throws Exception {
            try (var server = open(client -> {
                client.write(plain(0x81, utf8("one\r\ntwo\n\nfour\u001b[2J\u0007\u202e\u2028")));
                client.write(plain(0x82, bytes("00 ff")));
                client.write(plain(0x88, join(bytes("03 f0"), utf8("\u001b[31mno\nclosed"))));
                Masked.read(client);
            }); Program ada = terminal(server.uri())) {
                assertEquals(1, ada.exit());
                assertEquals(List.of("one", "    two", "    ",
                        "    four\\u{1b}[2J\\u{7}\\u{202e}\\u{2028}"), List.copyOf(ada.out));
                assertEquals(List.of("open: " + server.uri(), "BINARY, 2 bytes: 00 ff",
                        "closed with 1008, not allowed: \\u{1b}[31mno\\u{a}closed"),
                        List.copyOf(ada.err));
            }
        }

        @ParameterizedTest
        @DisplayName("--connect: the exit code says how it ended, a line on stderr in words")
        @CsvSource({"88 02 03 e8, 0, '1000, done'", "88 02 03 e9, 0, '1001, going away'",
            "88 00, 0, '1005, without a code'", "81 05, 1, '1006, lost, without a Close'",
            "88 02 0f a0, 1, '4000, which has a meaning for this server only'",
            "81 80 00 00 00 00, 1, '1002, a rule was broken'"})
        void theExitCodeSaysHowItEnded(String frames, int status, String words) throws Exception {
            try (var server = open(client -> client.hex(frames).socket.shutdownOutput());
                    Program ada = terminal(server.uri())) {
                assertEquals(status, ada.exit(), ada.err::toString);
                List<String> lines = List.copyOf(ada.err);
                assertEquals("closed with " + words, lines.getLast());
                boolean broken = words.startsWith("1002");
                assertEquals(broken ? 3 : 2, lines.size(), lines::toString);
                if (broken) assertTrue(lines.get(1).contains("must not mask"), lines.get(1));
            }
        }

        @Test
        @DisplayName("--connect passes on headers, subprotocols and the origin")
        void headersArePassedOn() throws Exception {
            var heard = new CompletableFuture<String>();
            try (var server = new RawServer((client, request) -> {
                heard.complete(request);
                client.ascii(answer(request, "Sec-WebSocket-Protocol: soap"));
                client.hex("88 02 03 e8").read(8);
            }); Program ada = terminal(server.uri(), "--header=Cookie: a=b", "--header", "X: y",
                    "--subprotocol=presence", "--subprotocol=soap", "--no-deflate",
                    "--origin=https://chat.example")) {
                assertEquals(0, ada.exit(), ada.err::toString);
                assertTrue(ada.err.element().endsWith(", soap"), ada.err::toString);
                String end = "\r\nSec-WebSocket-Protocol: presence, soap\r\nCookie: a=b\r\nX: y\r\n"
                        + "Origin: https://chat.example\r\n\r\n";
                assertTrue(heard.get().endsWith(end), heard.get());
            }
        }

        @Test
        @DisplayName("--connect: what can't be sent is refused with exit 2, without a connection")
        void whatCannotBeSentIsRefused() throws Exception {
            for (String option : List.of("--header=X: y\r\nZ: z", "--header=X y: z",
                    "--subprotocol=a\r\nX: y", "--origin=*"))
                try (Program ada = terminal(echo(), option)) {
                    assertEquals(2, ada.exit());
                    assertTrue(ada.out.isEmpty(), ada.out::toString);
                    assertEquals("Chat.java: ", ada.err.element().substring(0, 11));
                }
        }

        @Test
        @DisplayName("--connect: a failure to connect is one clear line, exit 1")
        void aFailureToConnectIsOneLine() throws Exception {
            int free;
            try (var listener = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"))) {
                free = listener.getLocalPort();
            }
            for (String[] each : new String[][] {{"ws://127.0.0.1:" + free, "Connection refused"},
                    {"" + echo().resolve("/nowhere"), "404 Not Found"}})
                try (Program ada = terminal(URI.create(each[0]))) {
                    assertEquals(1, ada.exit());
                    assertEquals(1, ada.err.size(), ada.err::toString);
                    String line = ada.err.element();
                    assertTrue(line.startsWith("Chat.java: can't connect to " + each[0]), line);
                    assertTrue(line.contains(each[1]), line);
                }
        }

        @Test
        @DisplayName("--connect tries all addresses that a name has")
        void allAddressesAreTried() throws Exception {
            Path hosts = Files.writeString(temporary().resolve("hosts"),
                    "127.9.9.9 two.test\n127.0.0.1 two.test\n");
            try (Chat chat = chat("--origin=http://two.test", "--host=127.0.0.1");
                    Program ada = Program.with(List.of("-Djdk.net.hosts.file=" + hosts),
                            "--connect=ws://two.test:" + chat.webSocketPort() + "/echo")) {
                type(ada, "found\n");
                assertEquals("found", ada.next(ada.out));
            }
        }

        @Test
        @DisplayName("--connect --trace explains both directions, as seen from here")
        void traceExplainsBothDirections() throws Exception {
            try (Program ada = terminal(echo(), "--trace")) {
                type(ada, "Hello\n");
                ada.process.getOutputStream().close();
                assertEquals(0, ada.exit());
                String titles = ada.err.stream().filter(line -> line.matches("\\d\\d:.*"))
                        .map(line -> line.replaceFirst("^\\S+ #\\d+ +", "")).collect(
                        Collectors.joining("\n"));
                assertEquals("""
                        out the opening handshake (§4.1)
                        in  the answer (§4.2.2)
                        out TEXT frame, 5 bytes
                        in  TEXT frame, 5 bytes
                        out CLOSE frame, 2 bytes
                        in  CLOSE frame, 2 bytes""", titles);
                assertTrue(ada.err.stream().anyMatch(line -> line.contains("masking key")));
                assertEquals("[Hello]", ada.out.toString());
            }
        }

        @Test
        @DisplayName("--connect stopped by a signal says 1001")
        void aSignalSays1001() throws Exception {
            try (var server = open(client -> {
                assertEquals("03 e9", hex(Masked.read(client).payload));
                client.hex("88 02 03 e9");
            }); Program ada = terminal(server.uri())) {
                ada.next(ada.err);
                ada.terminate();
                assertEquals(143, ada.exit());
            }
        }

        @Test
        @DisplayName("--connect sends a file no faster than the server takes it, and hears all")
        void aFileGoesThrough() throws Exception {
            int lines = 20_000;
            try (Program ada = terminal(echo(), "--max-queue=20000")) {
                var typing = new FutureTask<>(() -> {
                    for (int i = 0; i < lines; i++) type(ada, "line " + i + "x".repeat(100) + "\n");
                    return null;
                });
                Thread.startVirtualThread(typing);
                for (int i = 0; i < lines; i++)
                    assertEquals("line " + i + "x".repeat(100), ada.next(ada.out));
            }
        }
    }

    // ---- What travels, explained --------------------------------------------------------------

    @Nested
    @DisplayName("What travels, explained")
    class Trace {
        private static String explain(String... hex) {
            return Chat.Explained.explain(new Chat.Options(Stream.concat(Stream.of("--explain"),
                    Stream.of(hex)).toArray(String[]::new)).frames());
        }

        /// A server with --trace, and what it has written since it was last asked.
        private static final class Traced implements AutoCloseable {
            final Program program = Program.chat("--trace");
            final int httpPort, port;

            Traced() throws Exception {
                Program.Ready line = program.ready();
                httpPort = line.httpPort();
                port = line.webSocketPort();
            }

            Raw connect(String path, String... headers) throws IOException {
                return new Raw(port).shakeHands(path, headers);
            }

            /// Stops the server and returns all that it has written.
            List<String> stop() throws Exception {
                program.terminate();
                assertEquals(143, program.exit());
                return List.copyOf(program.err);
            }

            @Override
            public void close() { program.close(); }
        }

        static final Pattern HEAD = Pattern.compile(
                "\\d\\d:\\d\\d:\\d\\d\\.\\d{3} #\\d+ +((in|out) +)?[a-zA-Z0-9].*");

        // -- --explain --

        @Test
        @DisplayName("§5.7 the RFC's examples, exactly")
        void theRfcsExamples() {
            String examples = """
                    $ 81 05 48 65 6c 6c 6f
                    TEXT frame, 5 bytes
                    81 = 1 000 0001 | FIN=1 RSV=000 opcode=1 | TEXT, a whole message (§5.6)
                    05 = 0 0000101 | MASK=0 length=5 | the length itself (§5.2)
                    48 65 6c 6c 6f | payload | "Hello"
                    $ 81 85 37 fa 21 3d 7f 9f 4d 51 58
                    TEXT frame, 5 bytes
                    81 = 1 000 0001 | FIN=1 RSV=000 opcode=1 | TEXT, a whole message (§5.6)
                    85 = 1 0000101 | MASK=1 length=5 | the length itself (§5.2)
                    37 fa 21 3d | masking key | always new (§5.3)
                    7f 9f 4d 51 58 | payload, masked | 7f ^ 37 = 48, and so on (§5.3)
                    48 65 6c 6c 6f | payload | "Hello"
                    $ 01 03 48 65 6c 80 02 6c 6f
                    TEXT frame, 3 bytes
                    01 = 0 000 0001 | FIN=0 RSV=000 opcode=1 | TEXT, fragment 1, more to come (§5.4)
                    03 = 0 0000011 | MASK=0 length=3 | the length itself (§5.2)
                    48 65 6c | payload | "Hel"
                    CONTINUATION frame, 2 bytes
                    80 = 1 000 0000 | FIN=1 RSV=000 opcode=0 | CONTINUATION, the last of 2 fragments (§5.4)
                    02 = 0 0000010 | MASK=0 length=2 | the length itself (§5.2)
                    6c 6f | payload | "lo"
                    $ 89 05 48 65 6c 6c 6f
                    PING frame, 5 bytes
                    89 = 1 000 1001 | FIN=1 RSV=000 opcode=9 | PING, wants a PONG (§5.5.2)
                    05 = 0 0000101 | MASK=0 length=5 | the length itself (§5.2)
                    48 65 6c 6c 6f | payload | "Hello"
                    $ 8a 85 37 fa 21 3d 7f 9f 4d 51 58
                    PONG frame, 5 bytes
                    8a = 1 000 1010 | FIN=1 RSV=000 opcode=10 | PONG (§5.5.3)
                    85 = 1 0000101 | MASK=1 length=5 | the length itself (§5.2)
                    37 fa 21 3d | masking key | always new (§5.3)
                    7f 9f 4d 51 58 | payload, masked | 7f ^ 37 = 48, and so on (§5.3)
                    48 65 6c 6c 6f | payload | "Hello"
                    $ 82 7e 01 00 256 zeros
                    BINARY frame, 256 bytes
                    82 = 1 000 0010 | FIN=1 RSV=000 opcode=2 | BINARY, a whole message (§5.6)
                    7e = 0 1111110 | MASK=0 length=126 | so 2 more bytes (§5.2)
                    01 00 | length=256 | (§5.2)
                    00 00 00 00 … 00 00 00 | payload | "\\u{0}\\u{0}\\u{0}\\u{0}\\u{0}\\u{0}\\u{0}…"
                    $ 82 7f 00 00 00 00 00 01 00 00 65536 zeros
                    BINARY frame, 65536 bytes
                    82 = 1 000 0010 | FIN=1 RSV=000 opcode=2 | BINARY, a whole message (§5.6)
                    7f = 0 1111111 | MASK=0 length=127 | so 8 more bytes (§5.2)
                    00 00 00 00 00 01 00 00 | length=65536 | (§5.2)
                    00 00 00 00 … 00 00 00 | payload | "\\u{0}\\u{0}\\u{0}\\u{0}\\u{0}\\u{0}\\u{0}…"
                    """;
            assertExplained(examples.replace("65536 zeros", "00".repeat(65536))
                    .replace("256 zeros", "00".repeat(256)));
        }

        @Test
        @DisplayName("what the RFC's examples lack: Close, compression, broken rules")
        void whatTheRfcsExamplesLack() {
            assertExplained("""
                    $ 88 82 37 fa 21 3d 34 12
                    CLOSE frame, 2 bytes
                    88 = 1 000 1000 | FIN=1 RSV=000 opcode=8 | CLOSE (§5.5.1)
                    82 = 1 0000010 | MASK=1 length=2 | the length itself (§5.2)
                    37 fa 21 3d | masking key | always new (§5.3)
                    34 12 | payload, masked | 34 ^ 37 = 03, and so on (§5.3)
                    03 e8 | payload | 1000 (§7.4) ""
                    $ 88 07 0f a0 4d c3 a9 68 21
                    CLOSE frame, 7 bytes
                    88 = 1 000 1000 | FIN=1 RSV=000 opcode=8 | CLOSE (§5.5.1)
                    07 = 0 0000111 | MASK=0 length=7 | the length itself (§5.2)
                    0f a0 4d c3 a9 68 21 | payload | 4000 (§7.4) "Méh!"
                    $ 88 00
                    CLOSE frame, 0 bytes
                    88 = 1 000 1000 | FIN=1 RSV=000 opcode=8 | CLOSE (§5.5.1)
                    00 = 0 0000000 | MASK=0 length=0 | the length itself (§5.2)
                    - | payload | ""
                    $ 81 80 37 fa 21 3d
                    TEXT frame, 0 bytes
                    81 = 1 000 0001 | FIN=1 RSV=000 opcode=1 | TEXT, a whole message (§5.6)
                    80 = 1 0000000 | MASK=1 length=0 | the length itself (§5.2)
                    37 fa 21 3d | masking key | always new (§5.3)
                    - | payload, masked
                    - | payload | ""
                    $ 81 04 f0 9f 98 80
                    TEXT frame, 4 bytes
                    81 = 1 000 0001 | FIN=1 RSV=000 opcode=1 | TEXT, a whole message (§5.6)
                    04 = 0 0000100 | MASK=0 length=4 | the length itself (§5.2)
                    f0 9f 98 80 | payload | "😀"
                    $ 82 09 00 01 02 03 04 05 06 07 ff
                    BINARY frame, 9 bytes
                    82 = 1 000 0010 | FIN=1 RSV=000 opcode=2 | BINARY, a whole message (§5.6)
                    09 = 0 0001001 | MASK=0 length=9 | the length itself (§5.2)
                    00 01 02 03 … 06 07 ff | payload
                    $ c1 07 f2 48 cd c9 c9 07 00
                    TEXT frame, 7 bytes
                    c1 = 1 100 0001 | FIN=1 RSV=100 opcode=1 | TEXT, a whole message (§5.6)
                    07 = 0 0000111 | MASK=0 length=7 | the length itself (§5.2)
                    f2 48 cd c9 c9 07 00 | payload | compressed (RFC 7692 §7.2)
                    48 65 6c 6c 6f | inflated to 5 | costs 2: "Hello"
                    $ 41 03 f2 48 cd 80 04 c9 c9 07 00
                    TEXT frame, 3 bytes
                    41 = 0 100 0001 | FIN=0 RSV=100 opcode=1 | TEXT, fragment 1, more to come (§5.4)
                    03 = 0 0000011 | MASK=0 length=3 | the length itself (§5.2)
                    f2 48 cd | payload | compressed (RFC 7692 §7.2)
                    CONTINUATION frame, 4 bytes
                    80 = 1 000 0000 | FIN=1 RSV=000 opcode=0 | CONTINUATION, the last of 2 fragments (§5.4)
                    04 = 0 0000100 | MASK=0 length=4 | the length itself (§5.2)
                    c9 c9 07 00 | payload | compressed (RFC 7692 §7.2)
                    48 65 6c 6c 6f | inflated to 5 | costs 2: "Hello"
                    $ 01 01 61 89 00 00 01 62 80 00
                    TEXT frame, 1 byte
                    01 = 0 000 0001 | FIN=0 RSV=000 opcode=1 | TEXT, fragment 1, more to come (§5.4)
                    01 = 0 0000001 | MASK=0 length=1 | the length itself (§5.2)
                    61 | payload | "a"
                    PING frame, 0 bytes
                    89 = 1 000 1001 | FIN=1 RSV=000 opcode=9 | PING, wants a PONG (§5.5.2)
                    00 = 0 0000000 | MASK=0 length=0 | the length itself (§5.2)
                    - | payload | ""
                    CONTINUATION frame, 1 byte
                    00 = 0 000 0000 | FIN=0 RSV=000 opcode=0 | CONTINUATION, fragment 2, more to come (§5.4)
                    01 = 0 0000001 | MASK=0 length=1 | the length itself (§5.2)
                    62 | payload | "b"
                    CONTINUATION frame, 0 bytes
                    80 = 1 000 0000 | FIN=1 RSV=000 opcode=0 | CONTINUATION, the last of 3 fragments (§5.4)
                    00 = 0 0000000 | MASK=0 length=0 | the length itself (§5.2)
                    - | payload | ""
                    $ 81 05 48 65 6c 6c 6f 83 00 81 00
                    TEXT frame, 5 bytes
                    81 = 1 000 0001 | FIN=1 RSV=000 opcode=1 | TEXT, a whole message (§5.6)
                    05 = 0 0000101 | MASK=0 length=5 | the length itself (§5.2)
                    48 65 6c 6c 6f | payload | "Hello"
                    refused with 1002: this opcode means nothing (§5.2)
                    83 00 81 00 | the culprit
                    $ 91 00
                    refused with 1002: a reserved bit is set (§5.2)
                    91 00 | the culprit
                    $ c2 80 00 00 00 00
                    BINARY frame, 0 bytes
                    c2 = 1 100 0010 | FIN=1 RSV=100 opcode=2 | BINARY, a whole message (§5.6)
                    80 = 1 0000000 | MASK=1 length=0 | the length itself (§5.2)
                    00 00 00 00 | masking key | always new (§5.3)
                    - | payload, masked
                    - | payload | compressed (RFC 7692 §7.2)
                    refused with 1002: compressed data is never empty (RFC 7692 §7.2.1)
                    $ 40 00
                    refused with 1002: RSV1 is for a message's first frame (RFC 7692 §6.1)
                    40 00 | the culprit
                    $ 09 00
                    refused with 1002: a control frame is whole and has at most 125 bytes (§5.5)
                    09 00 | the culprit
                    $ 89 7e 00 7e
                    refused with 1002: a control frame is whole and has at most 125 bytes (§5.5)
                    89 7e 00 7e | the culprit
                    $ 81 7e 00 7d
                    refused with 1002: a length has its shortest form (§5.2)
                    81 7e 00 7d | the culprit
                    $ 82 7f 80 00 00 00 00 00 00 00
                    refused with 1002: the highest bit of a length is 0 (§5.2)
                    82 7f 80 00 … 00 00 00 | the culprit
                    $ 80 00
                    CONTINUATION frame, 0 bytes
                    80 = 1 000 0000 | FIN=1 RSV=000 opcode=0 | CONTINUATION, the last of 0 fragments (§5.4)
                    00 = 0 0000000 | MASK=0 length=0 | the length itself (§5.2)
                    - | payload | ""
                    refused with 1002: there is no message to continue (§5.4)
                    $ 01 00 01 00
                    TEXT frame, 0 bytes
                    01 = 0 000 0001 | FIN=0 RSV=000 opcode=1 | TEXT, fragment 1, more to come (§5.4)
                    00 = 0 0000000 | MASK=0 length=0 | the length itself (§5.2)
                    - | payload | ""
                    TEXT frame, 0 bytes
                    01 = 0 000 0001 | FIN=0 RSV=000 opcode=1 | TEXT, fragment 1, more to come (§5.4)
                    00 = 0 0000000 | MASK=0 length=0 | the length itself (§5.2)
                    - | payload | ""
                    refused with 1002: the message before has not ended (§5.4)
                    $ 81 01 ff
                    TEXT frame, 1 byte
                    81 = 1 000 0001 | FIN=1 RSV=000 opcode=1 | TEXT, a whole message (§5.6)
                    01 = 0 0000001 | MASK=0 length=1 | the length itself (§5.2)
                    ff | payload
                    refused with 1007: text must be UTF-8 (§8.1)
                    $ 88 01 00
                    CLOSE frame, 1 byte
                    88 = 1 000 1000 | FIN=1 RSV=000 opcode=8 | CLOSE (§5.5.1)
                    01 = 0 0000001 | MASK=0 length=1 | the length itself (§5.2)
                    00 | payload | "\\u{0}"
                    refused with 1002: a Close has a code of two bytes or none (§5.5.1)
                    $ 88 02 03 ec
                    CLOSE frame, 2 bytes
                    88 = 1 000 1000 | FIN=1 RSV=000 opcode=8 | CLOSE (§5.5.1)
                    02 = 0 0000010 | MASK=0 length=2 | the length itself (§5.2)
                    03 ec | payload | 1004 (§7.4) ""
                    refused with 1002: a Close can't have this code (§7.4)
                    $ 88 04 03 e8 c3 28
                    CLOSE frame, 4 bytes
                    88 = 1 000 1000 | FIN=1 RSV=000 opcode=8 | CLOSE (§5.5.1)
                    04 = 0 0000100 | MASK=0 length=4 | the length itself (§5.2)
                    03 e8 c3 28 | payload | 1000 (§7.4)
                    refused with 1007: text must be UTF-8 (§8.1)
                    """);
        }

        /// `$ 81 00`, then what is to be said about it; of the rows' columns there is a | between.
        private static void assertExplained(String examples) {
            for (String example : examples.split("(?m)^\\$ ")) {
                String[] parts = example.split("\n", 2);
                if (parts.length == 2) assertEquals(parts[1].strip().lines().map(line -> {
                    var columns = new ArrayList<>(List.of(line.split(" \\| ", 3)));
                    if (columns.size() == 1) return line;
                    columns.add("");
                    return "    %-23s  %-25s %s".formatted(columns.toArray()).stripTrailing();
                }).collect(Collectors.joining("\n")), explain(parts[0]).strip());
            }
        }

        @Test
        @DisplayName("hex comes as arguments or on stdin, with or without blanks, colons, 0x")
        void hexComesInManyForms() throws Exception {
            String hello = explain("818537fa213d7f9f4d5158");
            assertTrue(hello.contains("\"Hello\""), hello);
            for (String form : List.of("81 85 37FA213D 7f9f4d5158", "0x81,0x85,0x37,0xfa,0x21,0x3d,"
                    + "0x7f,0x9f,0x4d,0x51,0x58", "81:85:37:fa:21:3d:7f:9f:4d:51:58"))
                assertEquals(hello, explain(form));
            assertEquals(hello, explain("81", "85", "37fa213d", "7f9f4d5158"));
            try (Program program = Program.chat("--explain")) {
                try (var in = program.process.outputWriter()) {
                    in.write("81 85\n37fa213d\r\n\t7f9f4d5158\n");
                }
                assertEquals(0, program.exit());
                assertEquals(hello, String.join("\n", program.out));
                assertEquals("[]", program.err.toString());
            }
            for (String wrong : List.of("8", "8g", "hello", "81 0"))
                assertTrue(assertThrows(IllegalArgumentException.class, () -> explain(wrong))
                        .getMessage().contains("--explain"));
        }

        @Test
        @DisplayName("a frame that travels is explained in the same words as one that is given")
        void explainedAsItTravels() throws Exception {
            List<String> frames = List.of("81 85 37 fa 21 3d 7f 9f 4d 51 58", "82 80 00 00 00 00",
                    "89 81 37 fa 21 3d 7f", "01 81 37 fa 21 3d 7f", "80 81 37 fa 21 3d 7f",
                    "c1 87 37 fa 21 3d c5 b2 ec f4 fe fd 21", "88 82 37 fa 21 3d 34 12");
            try (var traced = new Traced()) {
                try (Raw raw = traced.connect("/echo",
                        "Sec-WebSocket-Extensions: permessage-deflate")) {
                    raw.hex(String.join(" ", frames)).in.readAllBytes();
                }
                List<String> rows = rows(traced.stop(), "in");
                List<String> expected = explain(String.join(" ", frames)).lines().toList();
                assertEquals(expected, rows.subList(rows.size() - expected.size(), rows.size()));
                assertTrue(expected.size() > 4 * frames.size(), expected.toString());
            }
        }

        /// The titles and rows of one direction.
        private static List<String> rows(List<String> lines, String direction) {
            var rows = new ArrayList<String>();
            boolean right = false;
            for (String line : lines) {
                if (!line.startsWith("    ")) right = line.matches("(.*? )?" + direction + " .*");
                if (right) rows.add(line.replaceFirst("^(\\S.*?)?" + direction + " +", ""));
            }
            return rows;
        }

        // -- --trace --

        @Test
        @DisplayName("everything that travels is there, in both directions, in order")
        void everythingIsThere() throws Exception {
            try (var traced = new Traced()) {
                try (Raw raw = traced.connect("/echo?a=b", "X-Some-Header: some value")) {
                    raw.text("hello").line();
                    raw.frame(0x89, utf8("?")).frame();
                    raw.frame(0x01, utf8("a")).frame(0x80, utf8("b")).line();
                    raw.bye();
                }
                List<String> lines = traced.stop();
                var titles = new ArrayList<String>();
                for (String line : lines)
                    if (HEAD.matcher(line).matches())
                        titles.add(line.substring(12).replaceFirst("^ #1 +(in|out) +", "$1 "));
                    else assertTrue(line.startsWith("    "), line);
                assertEquals(List.of("in the opening handshake (§4.1)", "out the answer (§4.2.2)",
                        "in TEXT frame, 5 bytes", "out TEXT frame, 5 bytes",
                        "in PING frame, 1 byte", "out PONG frame, 1 byte", "in TEXT frame, 1 byte",
                        "in CONTINUATION frame, 1 byte", "out TEXT frame, 2 bytes",
                        "in CLOSE frame, 2 bytes", "out CLOSE frame, 2 bytes"), titles);
                var heads = request("/echo?a=b", "X-Some-Header: some value").lines().toList();
                for (String line : heads)
                    if (!line.isEmpty()) assertShown(lines, line);
                assertShown(lines, "HTTP/1.1 101 Switching Protocols");
                assertShown(lines, "Sec-WebSocket-Accept: " + ACCEPT);
            }
        }

        /// A header is shown whole; its meaning may follow.
        private static void assertShown(List<String> lines, String header) {
            assertTrue(lines.stream().anyMatch(line -> line.equals("    " + header)
                    || line.startsWith("    " + header + "  ")), header);
        }

        @Test
        @DisplayName("no line is wider than 100 columns, whatever travels")
        void noLineIsWiderThan100Columns() throws Exception {
            try (var traced = new Traced()) {
                String[] offer = {"Sec-WebSocket-Extensions: permessage-deflate; "
                        + "server_max_window_bits=15", "X-Long: " + "x".repeat(5000)};
                try (Raw raw = traced.connect("/echo?" + "y".repeat(2000), offer)) {
                    for (int size : new int[] {1, 8, 9, 125, 126, 30_000}) {
                        raw.text("😀".repeat(size)).frame();
                        raw.text("wide 中文 \"'\\".repeat(size)).frame();
                        raw.frame(0x82, new byte[size]).frame();
                        raw.text("\u0001".repeat(size)).frame();
                    }
                    for (int i = 0; i < 12_000; i++) raw.frame(i == 0 ? 0x01 : 0x00, (byte) 'x');
                    raw.frame(0x80).frame();
                    raw.frame(0x89, new byte[125]).frame();
                    raw.frame(0x88, join(bytes("0f a0"), utf8("w".repeat(123)))).frame();
                }
                for (String bad : List.of("83 80", "91 85 37 fa 21 3d", "09 80", "89 fe 01 00",
                        "81 05", "80 80 37 fa 21 3d", "82 ff 80 00 00 00 00 00 00 00",
                        "81 ff 00 00 00 00 ff ff ff ff 00 00 00 00", "81 fe 00 05",
                        "81 81 37 fa 21 3d c8", "88 81 37 fa 21 3d 00", "88 82 37 fa 21 3d 37 fa",
                        "c1 80 37 fa 21 3d", "c1 82 00 00 00 00 ff ff", "40 80 37 fa 21 3d",
                        "01 80 37 fa 21 3d 01 80 37 fa 21 3d"))
                    try (Raw raw = traced.connect("/echo", offer[0])) {
                        raw.hex(bad).in.readAllBytes();
                    }
                for (String bad : List.of("GET / HTTP/1.0\r\n\r\n", "x".repeat(300) + "\r\n\r\n",
                        request("/", "Origin: http://evil.example:1234"), request("/", "-Host"),
                        request("/", "Host: evil.example"), request("/", "-Upgrade"),
                        request("/" + "z".repeat(200)), request("/", "X: " + "x".repeat(17_000)),
                        request("/", "-Sec-WebSocket-Key"), request("/", "-Connection"),
                        request("/", "Sec-WebSocket-Version: 8"),
                        request("/", "Sec-WebSocket-Extensions: " + ";".repeat(99))))
                    try (Raw raw = new Raw(traced.port)) {
                        assertTrue(raw.ascii(bad).readAll().startsWith("HTTP/1.1 4"), bad);
                    }
                List<String> lines = traced.stop();
                assertTrue(lines.size() > 300, lines.toString());
                for (String line : lines)
                    assertTrue(line.codePointCount(0, line.length()) <= 100, line);
                for (String line : lines)           // what comes too fast to be written is counted
                    assertTrue(line.isEmpty() || line.startsWith("    ")
                            || line.matches("\\d+ lines were left out here")
                            || HEAD.matcher(line).matches(), line);
            }
        }

        @Test
        @DisplayName("fields line up: bytes from column 5, names from 30, meanings from 56")
        void fieldsLineUp() throws Exception {
            for (String hex : List.of("818537fa213d7f9f4d5158", "880003e9", "8a8000000000"))
                for (String line : explain(hex).lines().skip(1).limit(4).toList()) {
                    assertTrue(line.startsWith("    ") && !line.startsWith("     "), line);
                    assertTrue(line.substring(4, 29).matches(
                            "(([0-9a-f]{2} (… )?)+|[0-9a-f]{2} = [01 ]+|-) +"), line);
                    assertTrue(line.substring(29).matches("\\S.*"), line);
                    if (line.length() > 54) assertTrue(line.substring(54).matches(" \\S.*"), line);
                }
        }

        @Test
        @DisplayName("a client can forge no line, nor steer the terminal")
        void noLineCanBeForged() throws Exception {
            String forged = "\n10:15:00.000 #9    in  TEXT frame, 5 bytes\n    81\t\tgot you\r"
                    + "\u001b[31m\u0000\u007f\u0085\u009b31m\u2028\u2029\u202e\u200b\ufeff\t";
            try (var traced = new Traced()) {
                try (Raw raw = traced.connect("/echo", "X: \u009b31m\tx",     // as ISO 8859-1, too
                        "Sec-WebSocket-Extensions: permessage-deflate")) {
                    raw.text(forged).line();
                    for (int i = 0; i < forged.length(); i++)     // the end is elided
                        raw.text(forged.substring(i)).line();
                    raw.text(forged.repeat(100)).frame();     // comes back compressed
                    raw.frame(0x89, utf8(forged)).frame();
                    raw.frame(0x82, utf8(forged)).frame();
                    raw.frame(0x88, join(bytes("0f a0"), utf8(forged))).assertClosed(4000);
                }
                for (String path : List.of("/", "/chat/%0a%1b"))
                    try (Raw raw = new Raw(traced.port)) {
                        raw.ascii(request(path, "Y: 1" + forged)).readAll();
                    }
                try (Raw raw = traced.connect("/")) {
                    raw.text("/nick " + forged).text("/" + forged);
                    raw.hex("83 80").in.readAllBytes();
                }
                List<String> lines = traced.stop();
                assertTrue(lines.size() > 60, lines.toString());
                for (String line : lines) {
                    assertTrue(line.isEmpty() || line.startsWith("    ")
                            || HEAD.matcher(line).matches(), line);
                    assertFalse(line.matches(".*[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}].*"), line);
                    assertFalse(line.matches("(10:15:00.000|    81 +got you).*"), line);
                }
                assertTrue(lines.stream().anyMatch(l -> l.contains("\"\\u{a}10:15:00.000 #9")));
            }
        }

        @Test
        @DisplayName("digits are 0 to 9 in every language")
        void digitsAre0To9InEveryLanguage() throws Exception {
            List<String> egypt = List.of("-Duser.language=ar", "-Duser.country=EG");
            try (Program explained = Program.with(egypt, "--explain", "81", "00")) {
                assertEquals(0, explained.exit());
                assertTrue(explained.out.stream().anyMatch(line -> line.contains("FIN=1 RSV=000")),
                        explained.out::toString);
            }
            try (Program refusing = Program.with(egypt)) {
                try (Raw raw = new Raw(refusing.ready().webSocketPort())) {
                    raw.ascii("nonsense\r\n\r\n").readAll();
                }
                String line = refusing.next(refusing.err);
                assertTrue(line.matches("\\d\\d:\\d\\d:\\d\\d[.]\\d{3} #1 400 .*"), line);
            }
        }

        @ParameterizedTest
        @DisplayName("a rejection shows the bytes, the rule with its section and the code")
        @CsvSource({"83 85 37 fa 21 3d, 1002, §5.2, 83 85 37 fa 21 3d",
            "91 80 37 fa 21 3d, 1002, §5.2, 91 80 37 fa 21 3d", "81 05, 1002, §5.1, 81 05",
            "09 80 37 fa 21 3d, 1002, §5.5, 09 80 37 fa 21 3d",
            "89 fe 01 00, 1002, §5.5, 89 fe 01 00", "81 fe 00 05, 1002, §5.2, 81 fe 00 05",
            "82 ff 80 00 00 00 00 00 00 00, 1002, §5.2, 82 ff 80 00 … 00 00 00",
            "80 80 37 fa 21 3d, 1002, §5.4, 80 = 1 000 0000", "81 81 37 fa 21 3d c8, 1007, §8.1, ff",
            "88 81 37 fa 21 3d 00, 1002, §5.5.1, 37", "88 82 37 fa 21 3d 34 13, 1002, §7.4, 03 e9",
            "c1 81 37 fa 21 3d c8, 1002, §5.2, c1 81 37 fa 21 3d c8"})
        void aRejectionShowsItsReason(String sent, int code, String section, String culprit)
                throws Exception {
            if (sent.endsWith("34 13")) sent = sent.replace("34 13", "34 16");     // 1004
            if (culprit.equals("03 e9")) culprit = "03 ec";
            try (var traced = new Traced()) {
                try (Raw raw = traced.connect("/echo")) {
                    assertTrue(raw.hex(sent).assertClosed(code).contains(section));
                }
                List<String> lines = traced.stop();
                String refusal = " refused with " + code + ": ";
                assertTrue(lines.stream().anyMatch(line -> line.contains(refusal)
                        && line.contains(section)), lines.toString());
                String shown = "    " + culprit + "  ";
                assertTrue(lines.stream().anyMatch(l -> l.startsWith(shown)), lines.toString());
                assertTrue(lines.stream().anyMatch(line -> line.contains(" " + code + " (§7.4) ")),
                        "the Close that goes back: " + lines);
            }
        }

        @Test
        @DisplayName("a refused handshake is shown, too, with the answer that goes back")
        void aRefusedHandshakeIsShown() throws Exception {
            for (String bad : List.of("GET /x HTTP/1.0\r\n\r\n", request("/x", "-Host"),
                    request("/x"), request("/x", "Y : 1"), request("/x", "Origin: http://evil")))
                try (var traced = new Traced()) {
                    String status;
                    try (Raw raw = new Raw(traced.port)) {
                        status = raw.ascii(bad).readAll().split(" ")[1];
                    }
                    String all = String.join("\n", traced.stop());
                    for (String part : List.of("    " + bad.lines().findFirst().orElse(""),
                            " refused with " + status + ": ", "§", "    HTTP/1.1 " + status + " "))
                        assertTrue(all.contains(part), part + "\n" + all);
                }
        }

        @Test
        @DisplayName("colours are for terminals only, not with NO_COLOR, not for TERM=dumb")
        void coloursAreForTerminals() throws Exception {
            try (var traced = new Traced()) {
                traced.connect("/echo").close();
                String all = String.join("\n", traced.stop());
                assertTrue(all.contains("opening handshake") && !all.contains("\u001b"), all);
            }
            assumeInstalled("script");
            assumeTrue(System.getProperty("os.name").equals("Linux"), "script(1) is another");
            var code = Chat.class.getProtectionDomain().getCodeSource().getLocation().toURI();
            for (String variable : List.of("-u NO_COLOR TERM=xterm", "NO_COLOR=1 TERM=xterm",
                    "-u NO_COLOR TERM=dumb")) {
                String java = "exec env " + variable + " '" + JAVA + "' -cp '"
                        + Path.of(code) + "' Chat --http-port=0 --ws-port=0 --trace";
                try (Program terminal = new Program(FOLDER, "script", "-qec", java, "/dev/null")) {
                    Matcher line = Program.LINE.matcher(terminal.next(terminal.out));
                    assertTrue(line.lookingAt(), line::toString);
                    int port = Integer.parseInt(line.group(4));
                    try (Raw raw = new Raw(port).shakeHands("/echo")) {
                        raw.text("hello").line();
                        raw.bye();
                    }
                    String text;
                    do text = terminal.next(terminal.out); while (!text.contains("TEXT frame"));
                    assertEquals(variable.equals("-u NO_COLOR TERM=xterm"), text.contains("\u001b["),
                            variable + ": " + text);
                }
            }
        }

        // -- /trace --

        /// Reads the events of /trace; each is a list of rows, each row a list of columns.
        private static final class Events implements AutoCloseable {
            final HttpURLConnection connection;
            final BufferedReader reader;

            Events(int httpPort) throws IOException {
                connection = (HttpURLConnection) URI.create("http://localhost:" + httpPort
                        + "/trace").toURL().openConnection();
                connection.setReadTimeout(PATIENCE * 1000);
                assertEquals(200, connection.getResponseCode());
                reader = new BufferedReader(new InputStreamReader(connection.getInputStream(),
                        StandardCharsets.UTF_8));
                assertEquals(":", reader.readLine());       // from now on nothing is missed
            }

            List<List<String>> next() throws IOException {
                var rows = new ArrayList<List<String>>();
                for (String line; !(line = reader.readLine()).isEmpty() || rows.isEmpty(); )
                    if (line.startsWith("data: "))
                        rows.add(cells(line.substring(6)));
                    else assertTrue(line.isEmpty() || line.startsWith(":"), line);
                return rows;
            }

            /// Of a title: time, connection, direction, title; of a field: bytes, name, meaning.
            private static List<String> cells(String line) { return List.of(line.split("\t", -1)); }

            @Override
            public void close() throws IOException { connection.disconnect(); }
        }

        @Test
        @DisplayName("/trace sends what travels as events: a title, then bytes, name and meaning")
        void traceIsAStreamOfEvents() throws Exception {
            try (Chat chat = chat("--trace"); var one = new Events(chat.httpPort());
                    var other = new Events(chat.httpPort())) {
                assertTrue(one.connection.getContentType().startsWith("text/event-stream"));
                try (Raw raw = Raw.open(chat, "/echo", "X: a\tb")) {
                    raw.text("a\tb\nc").line();
                    raw.bye();
                }
                for (Events events : List.of(one, other)) {
                    var titles = new ArrayList<String>();
                    for (int i = 0; i < 6; i++) {
                        List<List<String>> rows = events.next();
                        List<String> head = rows.get(0);
                        assertEquals(4, head.size(), head.toString());
                        assertTrue(head.get(0).matches("\\d\\d:\\d\\d:\\d\\d\\.\\d{3}"));
                        assertTrue(head.get(1).matches("#\\d+"));
                        titles.add(head.get(2) + " " + head.get(3));
                        for (List<String> row : rows.subList(1, rows.size())) {
                            if (i > 1)
                                assertTrue(row.get(0).matches(
                                        "-|([0-9a-f]{2} (… )?)*[0-9a-f]{2}( = [01 ]+)?"));
                        }
                        if (i == 0) assertTrue(rows.toString().contains("GET /echo HTTP/1.1"));
                        if (i == 2) assertTrue(rows.toString().contains("a\\u{9}b\\u{a}c"));
                        if (i == 2) assertEquals("37 fa 21 3d", rows.get(3).get(0));
                    }
                    assertEquals(List.of("in the opening handshake (§4.1)",
                            "out the answer (§4.2.2)", "in TEXT frame, 5 bytes",
                            "out TEXT frame, 5 bytes", "in CLOSE frame, 2 bytes",
                            "out CLOSE frame, 2 bytes"), titles);
                }
            }
        }

        private static int status(InetAddress address, int port, String request, String host)
                throws IOException {
            try (Socket socket = new Socket(address, port)) {
                socket.setSoTimeout(PATIENCE * 1000);
                socket.getOutputStream().write(utf8(request + " HTTP/1.1\r\nHost: " + host
                        + "\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"));
                var reader = new BufferedReader(new InputStreamReader(socket.getInputStream()));
                return Integer.parseInt(reader.readLine().split(" ")[1]);
            }
        }

        @Test
        @DisplayName("/trace is there only with --trace, only for this machine, only for GET")
        void traceIsForThisMachineOnly() throws Exception {
            InetAddress own = InetAddress.getByName("localhost");
            try (Chat without = chat(); Chat with = chat("--trace", "--host=0.0.0.0")) {
                int port = with.httpPort();
                String host = "localhost:" + port;
                assertEquals(404, status(own, without.httpPort(), "GET /trace",
                        "localhost:" + without.httpPort()));
                assertEquals(200, status(own, port, "GET /trace", host));
                assertEquals(404, status(own, port, "GET /trace/", host));
                assertEquals(405, status(own, port, "POST /trace", host));
                InetAddress other = otherAddress();
                assertEquals(404, status(other, port, "GET /trace", host));
                assertEquals(200, status(other, port, "GET /", host));
            }
        }

        @Test
        @DisplayName("/trace is not there for those who come through a proxy on this machine")
        void traceIsNotForThoseBehindAProxy() throws Exception {
            InetAddress own = InetAddress.getByName("localhost");
            try (Chat chat = chat("--trace", "--origin=https://chat.example")) {
                for (String host : List.of("chat.example", "chat.example:443", "localhost"))
                    assertEquals(404, status(own, chat.httpPort(), "GET /trace", host), host);
                assertEquals(200, status(own, chat.httpPort(), "GET /", "chat.example"));
            }
        }

        @Test
        @DisplayName("for who watches and reads nothing 1,000 items are kept; the others are counted")
        void whoWatchesAndReadsNothingFillsNoMemory() throws Exception {
            try (Chat chat = chat("--trace"); var events = new Events(chat.httpPort());
                    Raw raw = Raw.open(chat, "/echo")) {
                var watchers = (Set<?>) field(Chat.Web.class, "watchers")
                        .get(field(Chat.class, "web").get(chat));
                Object watcher = watchers.iterator().next();
                var queue = (Queue<?>) field(Chat.Web.Watcher.class, "items").get(watcher);
                Field gap = field(Chat.Web.Watcher.class, "leftOut");
                int items = 2;                              // of the handshake
                for (; (int) gap.get(watcher) < 1000; items += 2) {     // the buffers are full
                    assertTrue(items < 1_000_000, "the watcher still gets more");
                    raw.text("x");
                    while (raw.frame().first() != 0x81) items++;        // a PING
                    assertTrue(queue.size() <= Chat.Web.MAX_TRACED);
                }
                int seen = 0, leftOut = 0;
                while (seen + leftOut < items) {
                    String title = events.next().get(0).getLast();
                    Matcher told = Pattern.compile("(\\d+) items were left out: .+").matcher(title);
                    if (told.matches()) leftOut += Integer.parseInt(told.group(1));
                    else seen++;
                }
                assertEquals(items, seen + leftOut);
                assertTrue(leftOut >= 1000, "left out: " + leftOut);
                raw.text("later").line();
                assertTrue(events.next().toString().contains("later"), "he can go on");
            }
        }
    }

    // ---- The chat: rooms, names, commands -----------------------------------------------------

    @Nested
    @DisplayName("The chat: rooms, names, commands")
    class RoomsAndCommands extends Served {

        /// A plain client, as the seed's.
        private Guest member(String path) throws IOException {
            return new Guest(Raw.open(chat, path), true);
        }

        private Guest present(String path) throws IOException {
            return new Guest(Raw.open(chat, path, PRESENCE), true);
        }

        // -- What is seen --

        @Test
        @DisplayName("a plain client sees what is said and who has left, to the byte, and no more")
        void aPlainClientSeesTheSeedsLines() throws Exception {
            String gone;
            try (var ada = member("/chat/plain")) {
                try (var bob = present("/chat/plain")) {
                    ada.hearsNothing();                                   // of his arrival
                    bob.say("hello");
                    for (Raw raw : List.of(ada.raw, bob.raw)) {
                        String line = raw == bob.raw ? "said " + bob.name + " hello"
                                : bob.name + ": hello";
                        assertEquals(hex(join(bytes("81 %02x".formatted(line.length())),
                                utf8(line))), raw.readHex(2 + line.length()));
                    }
                    gone = bob.name;
                }
                String line = " .... " + gone + " has left.";
                assertEquals(hex(join(bytes("81 %02x".formatted(line.length())), utf8(line))),
                        ada.raw.readHex(2 + line.length()));
                ada.hearsNothing();
            }
        }

        @Test
        @DisplayName("a text message has the sender's name before it and is otherwise unchanged")
        void nothingThatIsSaidIsChanged() throws Exception {
            try (var ada = member("/chat/same"); var bob = present("/chat/same")) {
                for (String text : List.of("", " ", "\n", "a b\r\n", "\0", "\u001b[31m", "😀é€",
                        "e\u0301", "<script>alert(1)</script>&amp;", " .... user-1 has left.",
                        "user-1: not I", "\u202egnp.exe", " /help", "\ufeff", "x".repeat(70_000)))
                    for (Guest speaker : List.of(ada, bob)) {
                        speaker.say(text);
                        ada.hears(speaker.name + ": " + text);
                        bob.hears(speaker.name + ": " + text);
                    }
                bob.raw.frame(0x01, utf8("one ")).frame(0x00).frame(0x80, utf8("line"));
                ada.hears(bob.name + ": one line").hearsNothing();
                bob.hears(bob.name + ": one line").hearsNothing();
            }
        }

        @ParameterizedTest
        @DisplayName("for a terminal, each further line of what is said begins with a TAB: no notice")
        @CsvSource({"a|b, a|~b", "| .... bob has left., |~ .... bob has left.", "||x, |~|~x",
            "a|, a|"})
        void aLineBreakMakesNoNotice(String said, String seen) throws Exception {
            try (var ada = member("/chat/break"); var bob = present("/chat/break")) {
                for (String lineBreak : List.of("\n", "\r", "\r\n", "\u0085")) {
                    String text = said.replace("|", lineBreak);
                    bob.say(text).hears(bob.name + ": " + text);
                    ada.hears(bob.name + ": " + seen.replace("|", lineBreak).replace("~", "\t"));
                }
            }
        }

        @ParameterizedTest
        @DisplayName("a line that would get too long for those who hear it is refused (1009)")
        @CsvSource({"10, 437", "13, 437", "133, 292", "120, 873"})
        void aLineMustNotGetTooLong(int codePoint, int times) throws Exception {
            String letter = Character.toString(codePoint);
            try (Chat chat = chat("--max-message=1000");
                    Raw ada = Raw.open(chat, "/").text(letter.repeat(times - 1))) {
                assertTrue(ada.line().startsWith("user-"));
                ada.text(letter.repeat(times)).assertClosed(1009);
            }
        }

        @Test
        @DisplayName("§1.9 the subprotocol presence tells of arrivals, of one's own first")
        void presenceTellsOfArrivals() throws Exception {
            try (var ada = present("/chat/here")) {
                assertTrue(ada.raw.head.contains("\r\nSec-WebSocket-Protocol: presence\r\n"));
                try (var bob = present("/chat/here"); var eve = member("/chat/here")) {
                    ada.hears(" .... " + bob.name + " has joined.",
                            " .... " + eve.name + " has joined.", eve.name + ": ");
                    bob.hears(" .... " + eve.name + " has joined.", eve.name + ": ");
                    bob.hearsNothing();
                    eve.hearsNothing();
                }
                try (var elsewhere = present("/chat/there")) {
                    elsewhere.hearsNothing();
                }
                for (int i = 0; i < 2; i++) assertTrue(ada.raw.line().endsWith(" has left."));
                ada.hearsNothing();
            }
        }

        @ParameterizedTest
        @DisplayName("who leaves, in whatever way, has left once; he himself is not told")
        @ValueSource(strings = {"88 82 37 fa 21 3d 34 12", "88 80 37 fa 21 3d", "FIN", "RST",
            "FIN inside 81 85 37 fa 21 3d 7f", "RST inside 01 85 37 fa 21 3d 7f", "81 05", "83 80",
            "82 80 00 00 00 00", "81 81 37 fa 21 3d c8",
            "81 ff 00 00 00 00 00 10 00 01 37 fa 21 3d"})
        void whoLeavesHasLeftOnce(String way) throws Exception {
            try (var ada = member("/chat/left"); var eve = member("/chat/left")) {
                ada.hears(eve.name + ": ");
                eve.say("I go").hears(eve.name + ": I go");
                ada.hears(eve.name + ": I go");
                eve.raw.hex(way.replaceAll("FIN|RST|inside", ""));
                if (way.startsWith("RST")) eve.raw.reset();
                if (way.startsWith("FIN")) eve.raw.socket.shutdownOutput();
                if (!way.startsWith("RST")) {
                    byte[] last = eve.raw.in.readAllBytes();          // at most a Close
                    if (last.length > 0) assertEquals("88 %02x".formatted(last.length - 2),
                            hex(last).substring(0, 5));
                }
                eve.raw.close();
                ada.hears(" .... " + eve.name + " has left.").hearsNothing();
                ada.say("/who").hears(" .... 1 here: " + ada.name);
            }
        }

        @Test
        @DisplayName("the first one to come back to a room finds it empty")
        void aRoomExistsWhileItHasMembers() throws Exception {
            for (int i = 0; i < 3; i++)
                try (var ada = present("/chat/again"); var bob = present("/chat/again")) {
                    bob.say("/who").hears(" .... 2 here: " + Stream.of(ada.name, bob.name).sorted()
                            .collect(Collectors.joining(", ")));
                }
        }

        @Test
        @DisplayName("many who come and go at the same time: each has joined once, then left once")
        void whoComesAndGoesLeavesNoGhost() throws Exception {
            try (var ada = present("/chat/station"); var pool = Executors.newFixedThreadPool(8)) {
                var futures = new ArrayList<Future<String>>();
                for (int i = 0; i < 120; i++) {
                    int way = i % 3;
                    futures.add(pool.submit(() -> {
                        var guest = present("/chat/station");
                        if (way == 0) guest.raw.frame(0x88);
                        if (way == 1) guest.raw.reset();
                        guest.raw.close();
                        return guest.name;
                    }));
                }
                var guests = new ArrayList<String>();
                for (var future : futures) guests.add(future.get());
                var here = new TreeSet<String>();
                var gone = new ArrayList<String>();
                while (gone.size() < guests.size()) {
                    String[] words = ada.raw.line().split(" ");
                    boolean joined = words[4].equals("joined.");    // under a name that is free
                    assertTrue(joined ? here.add(words[2]) : here.remove(words[2]), words[2]);
                    if (!joined) gone.add(words[2]);
                }
                assertEquals(guests.stream().sorted().toList(), gone.stream().sorted().toList());
                ada.hearsNothing().say("/who").hears(" .... 1 here: " + ada.name);
            }
        }

        @Test
        @DisplayName("all members of a room see the same lines in the same order")
        void allSeeTheSameOrder() throws Exception {
            int people = 6, lines = 60;
            try (var pool = Executors.newVirtualThreadPerTaskExecutor()) {
                var members = new ArrayList<Guest>();
                for (int i = 0; i < people; i++) members.add(present("/chat/order"));
                for (int i = 0; i < people; i++)
                    for (int later = i + 1; later < people; later++)
                        members.get(i).hears(" .... " + members.get(later).name + " has joined.");
                var heard = new ArrayList<Future<List<String>>>();
                for (Guest member : members) {
                    pool.submit(() -> {
                        for (int i = 0; i < lines; i++) member.say("" + i);
                        return null;
                    });
                    heard.add(pool.submit(() -> {
                        var all = new ArrayList<String>();
                        while (all.size() < people * lines) all.add(member.raw.line());
                        return all;
                    }));
                }
                List<String> all = heard.get(0).get();
                for (var future : heard) assertEquals(all, future.get());
                for (Guest member : members) {
                    assertEquals(IntStream.range(0, lines).mapToObj(i -> member.name + ": " + i)
                            .toList(), all.stream().filter(l -> l.startsWith(member.name + ":"))
                            .toList());
                    member.raw.close();
                }
            }
        }

        @Test
        @DisplayName("§5.6 binary is refused by a room with 1003, and never becomes a line")
        void aRoomIsForText() throws Exception {
            try (var ada = member("/chat/text"); var eve = member("/chat/text")) {
                ada.hears(eve.name + ": ");
                eve.raw.frame(0x82, (byte) 1, (byte) 2, (byte) 0xff).frame(0x81, utf8("more"));
                assertTrue(eve.raw.assertClosed(1003).contains("§5.6"));
                eve.raw.close();
                ada.hears(" .... " + eve.name + " has left.").hearsNothing();
            }
        }

        // -- Over a thousand --

        @Test
        @DisplayName("above 1,000 members nobody comes or goes with a word; names stay unique")
        void aCrowdIsNotToldWhoComesAndGoes() throws Exception {
            assertEquals(1000, Chat.Rooms.CROWD);
            var names = new LinkedHashSet<String>();                  // in the order of arrival
            var crowd = new ArrayList<Raw>();
            String gone;
            try (var ada = present("/chat/crowd")) {
                names.add(ada.name);
                while (crowd.size() < Chat.Rooms.CROWD - 2) {
                    crowd.add(Raw.open(chat, "/chat/crowd"));
                    String line = ada.raw.line();
                    assertTrue(line.endsWith(" has joined."), line);
                    assertTrue(names.add(line.split(" ")[2]), line);
                }
                try (var last = present("/chat/crowd")) {             // he makes them a thousand
                    ada.hears(" .... " + last.name + " has joined.");
                    names.add(gone = last.name);
                    try (var more = present("/chat/crowd")) {         // and he is one too many
                        names.add(more.name);
                        assertEquals(Chat.Rooms.CROWD + 1, names.size(), "a name was given twice");
                        for (Guest member : List.of(ada, last)) member.hearsNothing();
                        more.say("/who").hears(" .... 1001 here: "
                                + names.stream().limit(100).sorted()
                                .collect(Collectors.joining(", ")) + ", and 901 more");
                        more.say("hello");
                        for (Guest member : List.of(ada, last, more))
                            member.hears(more.name + ": hello");
                        for (Raw raw : crowd) assertEquals(more.name + ": hello", raw.line());
                    }
                    for (Guest member : List.of(ada, last)) member.hearsNothing();
                }
                ada.hears(" .... " + gone + " has left.").hearsNothing();
            } finally {
                for (Raw raw : crowd) raw.close();
            }
        }

        // -- Rooms by path --

        @Test
        @DisplayName("/, /chat and /chat/lobby are one room, whatever the query and the writing")
        void theLobbyHasManyPaths() throws Exception {
            var members = new ArrayList<Guest>();
            for (String path : List.of("/", "/chat", "/chat/lobby", "/?room=b", "/chat?x=/y",
                    "/chat?", "/chat/lobby?/../x", "/chat/%6c%6Fbby", "http://localhost/chat",
                    "http://localhost/", "https://localhost/chat/lobby"))
                members.add(present(path));
            try (var elsewhere = present("/chat/Lobby"); var echo = Raw.open(chat, "/echo")) {
                var last = members.get(members.size() - 1);
                last.say("hello").hears(last.name + ": hello");
                for (Guest member : members) {
                    String line;
                    do line = member == last ? last.name + ": hello" : member.raw.line();
                    while (line.endsWith(" has joined."));
                    assertEquals(last.name + ": hello", line, member.raw.head);
                }
                elsewhere.hearsNothing();
                echo.assertNothingMore();
            }
            for (Guest member : members) member.raw.close();
        }

        @ParameterizedTest
        @DisplayName("a room's name is letters and digits of any script, - and _, however written")
        @CsvSource({"caf%C3%A9, caf%c3%a9", "caf%C3%A9, cafe%CC%81", "a-_9, %61%2D%5f9",
            "%E4%B8%AD%E6%96%87, %e4%b8%ad%e6%96%87", "%D9%A3, %D9%A3",
            "%E0%A4%B9%E0%A4%BF, %E0%A4%B9%E0%A4%BF", "%F0%90%90%80, %F0%90%90%80"})
        void aRoomsNameMayBeOfAnyScript(String one, String other) throws Exception {
            try (var ada = present("/chat/" + one); var bob = present("/chat/" + other)) {
                ada.hears(" .... " + bob.name + " has joined.");
            }
        }

        @Test
        @DisplayName("a room's name has up to 64 characters; upper and lower case are two rooms")
        void aRoomsNameHas64Characters() throws Exception {
            for (String letter : List.of("x", "%C3%A9", "%F0%90%90%80"))
                try (var ada = present("/chat/" + letter.repeat(64))) {
                    ada.say("/who").hears(" .... 1 here: " + ada.name);
                    assertNotFound("/chat/" + letter.repeat(65));
                }
            try (var ada = present("/chat/case"); var bob = present("/chat/Case")) {
                ada.hearsNothing();
                bob.say("/who").hears(" .... 1 here: " + bob.name);
            }
        }

        private void assertNotFound(String path) throws IOException {
            try (Raw raw = new Raw(chat.webSocketPort()).ascii(request(path))) {
                String answer = raw.readAll();
                assertTrue(answer.startsWith("HTTP/1.1 404 Not Found\r\n"), path + ": " + answer);
            }
        }

        @ParameterizedTest
        @DisplayName("§4.2.2 every other path is 404")
        @ValueSource(strings = {"/chat/", "/chat/a/", "/chat/a/b", "/chat/a%2Fb", "/chat/a%20b",
            "/chat/a+b", "/chat/.", "/chat/..", "/chat/%2e%2e", "//", "//chat", "/chat//a",
            "/chat/a.b", "/chat/%00", "/chat/%0d%0aX:y", "/chat/%", "/chat/%4", "/chat/%zz",
            "/chat/%-1", "/chat/%+a", "/chat/%ff", "/chat/%C0%AE", "/chat/%ed%a0%80",
            "/chat/%F0%9F%98%80", "/chat/a%E2%80%8Db", "/chat/%3Cb%3E", "/chat/a;b", "/Chat",
            "/chatx", "/chat%2Fa", "/echo/", "/echo/a", "/Echo", "/trace", "/index.html",
            "/favicon.ico", "http://localhost/other"})
        void everyOtherPathIs404(String path) throws Exception { assertNotFound(path); }

        @Test
        @DisplayName("/echo sends each message back as it came, and is no part of the chat")
        void echoSendsBackWhatCame() throws Exception {
            try (Raw raw = Raw.open(chat, "/echo?x", PRESENCE); var ada = member("/")) {
                assertFalse(raw.head.contains("Sec-WebSocket-Protocol"), raw.head);
                for (String text : List.of("", "/help", "//x", "\0", "😀"))
                    assertEquals(text, raw.text(text).line());
                Frame frame = raw.frame(0x82, bytes("01 02 ff")).frame();
                assertEquals("82: 01 02 ff", "%02x: ".formatted(frame.first) + hex(frame.payload));
                raw.assertNothingMore();
                ada.hearsNothing();
            }
        }

        // -- Names and commands --

        @Test
        @DisplayName("user-N is chosen at random: two servers don't begin with the same names")
        void namesAreRandom() throws Exception {
            var names = new ArrayList<String>();
            for (int i = 0; i < 2; i++)
                try (Chat other = chat(); Raw a = Raw.open(other, "/", PRESENCE);
                        Raw b = Raw.open(other, "/", PRESENCE)) {
                    names.add(a.line() + b.line());
                }
            assertNotEquals(names.get(0), names.get(1));
        }

        @Test
        @DisplayName("/nick tells the room, and from then on it is the name")
        void nickChangesTheName() throws Exception {
            try (var ada = member("/chat/nick"); var bob = present("/chat/nick")) {
                String before = ada.name;
                ada.named("Ada-1_ü").say("hi").hears("Ada-1_ü: hi").say("/who");
                bob.hears(" .... " + before + " is now Ada-1_ü.", "Ada-1_ü: hi").hearsNothing();
                ada.hears(" .... 2 here: Ada-1_ü, " + bob.name);
                ada.say("/nick \t \n Ada-2 \n").hears(" .... Ada-1_ü is now Ada-2.");
                bob.hears(" .... Ada-1_ü is now Ada-2.");
                ada.leave();
                bob.hears(" .... Ada-2 has left.").hearsNothing();
            }
        }

        @Test
        @DisplayName("a name is unique in the server, in other writings too, and free again later")
        void aNameIsUniqueInTheServer() throws Exception {
            try (var ada = member("/chat/one").named("Ádä");
                    var bob = member("/chat/two")) {
                for (String same : List.of("Ádä", "ádä", "ÁDÄ", "A\u0301da\u0308", "Ａ\u0301dä"))
                    bob.say("/nick " + same).hears(" .... The name " + java.text.Normalizer
                            .normalize(same, java.text.Normalizer.Form.NFC) + " is taken.");
                bob.say("/nick " + ada.name + "x").hears(" .... " + bob.name + " is now Ádäx.");
                ada.hearsNothing();
                ada.named("ádä").named("eve");            // one's own name in another writing
                bob.say("/nick ÁDÄ").hears(" .... Ádäx is now ÁDÄ.");
                ada.say("/nick ádä").hears(" .... The name ádä is taken.");
                bob.leave();
                ada.named("ádä");
                try (var free = member("/chat/two").named("eve")) {
                    free.hearsNothing();
                }
            }
        }

        @Test
        @DisplayName("nobody is given or can take the user-N of another who is here")
        void aGivenNameIsTaken() throws Exception {
            try (var ada = member("/chat/given"); var bob = member("/chat/elsewhere")) {
                bob.say("/nick " + ada.name).hears(" .... The name " + ada.name + " is taken.");
                bob.say("/nick " + ada.name.toUpperCase(Locale.ROOT)).hears(" .... The name "
                        + ada.name.toUpperCase(Locale.ROOT) + " is taken.");
                ada.hearsNothing();
            }
        }

        @ParameterizedTest
        @DisplayName("a name has 1 to 24 letters, digits, - or _; only who asked is told otherwise")
        @ValueSource(strings = {"/nick", "/nick ", "/nick a b", "/nick a:b", "/nick a.b",
            "/nick <b>", "/nick 😀", "/nick a\u202eb", "/nick a\u200db", "/nick \u0007",
            "/nick a\nb", "/nick xxxxxxxxxxxxxxxxxxxxxxxxx", "/nick /nick"})
        void aNameHas1To24Letters(String line) throws Exception {
            try (var ada = member("/chat/bad"); var bob = present("/chat/bad")) {
                ada.say(line).hears(" .... A name has 1 to 24 letters, digits, - or _.")
                        .hearsNothing();
                bob.hearsNothing();
                ada.say("still me").hears(ada.name + ": still me");
                ada.named("x".repeat(24)).named("中".repeat(24)).named("\ud801\udc00".repeat(24));
            }
        }

        @Test
        @DisplayName("no name is invisible in part or whole, or begins with a mark")
        void noNameIsInvisible() throws Exception {
            try (var ada = member("/chat/seen").named("ada");
                    var bob = present("/chat/see")) {
                for (int letter : new int[] {0x34f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x180b, 0x180f,
                        0x3164, 0xffa0, 0xfe00, 0xfe0f, 0xe0100, 0xe01ef, 0x200c, 0x200d})
                    for (String name : List.of("%sada", "ada%s", "a%sda", "%s", "%1$s%1$s"))
                        bob.say("/nick " + name.formatted(Character.toString(letter)))
                                .hears(" .... A name has 1 to 24 letters, digits, - or _.");
                for (String name : List.of("\u0301", "\u0301ada", "\u064bx", "ada\u02d0\u3164I"))
                    bob.say("/nick " + name)
                            .hears(" .... A name has 1 to 24 letters, digits, - or _.");
                for (String name : List.of("ไทย", "हिन्दी", "\ud801\udc00", "می\u200cخواهم",
                        "क\u094d\u200dष"))
                    bob.named(name);
                ada.named("میخواهم").named("क्ष2");
                assertNotFound("/chat/a%CD%8F");
                assertNotFound("/chat/%E3%85%A4");
                assertNotFound("/chat/%CC%81a");
                present("/chat/%D9%85%DB%8C%E2%80%8C%D8%AE").close();
            }
        }

        @Test
        @DisplayName("names that differ by case or form, however that is written, are the same")
        void caseIsFolded() throws Exception {
            try (var ada = member("/chat/fold"); var bob = member("/chat/folds")) {
                for (String pair : List.of("ΟΔΟΣ οδοσ", "ΟΔΟΣ οδος", "straße STRASSE",
                        "H\u0331 \u1e96", "J\u030c \u01f0", "ﬁn FIN",
                        "می\u200cخواهم میخواهم")) {
                    ada.named(pair.split(" ")[0]);
                    String other = java.text.Normalizer.normalize(pair.split(" ")[1],
                            java.text.Normalizer.Form.NFC);
                    bob.say("/nick " + other).hears(" .... The name " + other + " is taken.");
                }
            }
            for (int letter = 0; letter <= Character.MAX_CODE_POINT; letter++) {
                String one = "a" + Character.toString(letter), key = Chat.Name.key(one);
                if (Chat.Name.of(one, 2) == null) continue;
                for (String same : List.of(key, one.toLowerCase(Locale.ROOT),
                        one.toUpperCase(Locale.ROOT)))
                    assertEquals(key, Chat.Name.key(same), Integer.toHexString(letter));
            }
        }

        @Test
        @DisplayName("a long name costs no more than a long line")
        void aLongNameIsCheap() throws Exception {
            try (var ada = member("/chat/cheap")) {
                String marks = "a" + "\u0301\u0323".repeat(80_000);
                long line = Long.MAX_VALUE, name = Long.MAX_VALUE;
                for (int i = 0; i < 3; i++) {
                    long start = System.nanoTime();
                    ada.say(marks).raw.line();
                    line = Math.min(line, System.nanoTime() - start);
                    start = System.nanoTime();
                    ada.say("/nick " + marks)
                            .hears(" .... A name has 1 to 24 letters, digits, - or _.");
                    name = Math.min(name, System.nanoTime() - start);
                }
                assertTrue(name < 5 * line, name + " ns, and a line takes " + line);
            }
        }

        @Test
        @DisplayName("who comes back under a name that a ghost has gets it when the ghost has gone")
        void whoComesBackGetsTheName() throws Exception {
            try (var ghost = member("/chat/ghost").named("casper");
                    var ada = present("/chat/back"); var bob = member("/chat/back");
                    var eve = present("/chat/back")) {
                bob.say("/nick casper").hears(" .... The name casper is taken.");   // has spoken
                while (!ada.raw.line().equals(" .... " + eve.name + " has joined.")) continue;
                eve.say("/nick casper").hears(" .... The name casper is taken.");
                String before = eve.name;
                eve.named("eve3");                                      // has another wish
                ada.hears(" .... " + before + " is now eve3.");
                ada.say("/nick casper").hears(" .... The name casper is taken.");
                ghost.leave();
                String found = " .... " + ada.name + " is now casper.";
                for (var one : List.of(ada, eve)) one.hears(found);
                bob.hears(" .... " + before + " is now eve3.", found);
                ada.say("I").hears("casper: I");
            }
        }

        @Test
        @DisplayName("who floods a room is slowed, as long as its members read, not they cut off")
        void whoFloodsARoomIsSlowed() throws Exception {
            int lines = 1500;
            try (Chat own = chat("--max-queue=1000000");
                    var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                var raws = new ArrayList<Raw>();
                for (int i = 0; i < 5; i++) {
                    var socket = new Socket();
                    socket.setReceiveBufferSize(1 << 14);
                    socket.connect(new InetSocketAddress("localhost", own.webSocketPort()));
                    raws.add(new Raw(socket).shakeHands("/chat/flood"));
                    raws.get(i).text("").line();
                }
                Raw talker = raws.get(0);                       // of the others, the last is deaf
                var heard = new ArrayList<Future<List<String>>>();
                for (Raw raw : raws.subList(0, 4)) heard.add(executor.submit(() -> {
                    var numbers = new ArrayList<String>();
                    while (numbers.size() < lines) {
                        if (raw != talker) Thread.sleep(2);
                        String[] words = raw.line().split(" ");
                        if (words.length == 3) numbers.add(words[1]);
                    }
                    return numbers;
                }));
                String load = " " + "x".repeat(10_000);
                for (int i = 0; i < lines; i++) talker.text(i + load);
                var all = IntStream.range(0, lines).mapToObj(i -> "" + i).toList();
                for (var one : heard) assertEquals(all, one.get());
                assertThrows(IOException.class, () -> {
                    while (true) raws.get(4).in.skipNBytes(1);          // a reset
                });
                for (Raw raw : raws) raw.close();
            }
        }

        @Test
        @DisplayName("when all names from user-0 to user-99999 are taken, there are longer ones")
        void thereIsAlwaysAName() throws Exception {
            try (Chat full = chat(); Raw ada = Raw.open(full, "/", PRESENCE)) {
                ada.line();
                @SuppressWarnings("unchecked")
                var nicks = (Map<String, Object>) field(Chat.Rooms.class, "nicks")
                        .get(rooms(full));
                Object holder = nicks.values().iterator().next();
                for (int i = 0; i < 100_000; i++) nicks.putIfAbsent("user-" + i, holder);
                try (Raw bob = Raw.open(full, "/", PRESENCE)) {
                    assertTrue(bob.line().matches(" [.]{4} user-\\d{6,} has joined[.]"));
                }
            }
        }

        @Test
        @DisplayName("/who names those of this room, sorted, to the one who asked")
        void whoNamesThoseOfThisRoom() throws Exception {
            try (var eve = member("/chat/who").named("eve2");
                    var ada = member("/chat/who").named("ada2");
                    var elsewhere = member("/chat/whose").named("bob2")) {
                for (int i = 0; i < 2; i++) eve.raw.line();       // ada's first words, her new name
                eve.say("/who").hears(" .... 2 here: ada2, eve2").hearsNothing();
                ada.say(" /who").hears(ada.name + ":  /who").say("/who   me?")
                        .hears(" .... 2 here: ada2, eve2").hearsNothing();
                elsewhere.say("/who\n").hears(" .... 1 here: bob2").hearsNothing();
            }
        }

        @Test
        @DisplayName("/help names every command, to the one who asked")
        void helpNamesEveryCommand() throws Exception {
            try (var ada = member("/chat/help"); var bob = present("/chat/help")) {
                ada.say("/help").hears(" .... /nick NAME changes your name, /who lists who is "
                        + "here, /help is this. // at the start says a /.").hearsNothing();
                bob.hearsNothing();
            }
        }

        @ParameterizedTest
        @DisplayName("an unknown command gets an answer and is not broadcast")
        @CsvSource({"/foo, /foo", "/, /", "/ nick x, /", "/Nick x, /Nick", "/nickx, /nickx",
            "/whö, /whö", "/<b>hi</b> there, /<b>hi</b>"})
        void anUnknownCommandGetsAnAnswer(String line, String command) throws Exception {
            try (var ada = member("/chat/foo"); var bob = present("/chat/foo")) {
                ada.say(line).hears(" .... There is no command " + command + ". Try /help.");
                bob.hearsNothing();
            }
        }

        @Test
        @DisplayName("a long unknown command does not come back in full, nor with half a character")
        void aLongCommandIsShortened() throws Exception {
            try (var ada = member("/chat/long")) {
                for (String letter : List.of("x", "é", "😀")) {
                    String line = ada.say("/" + letter.repeat(1000)).raw.line();
                    assertTrue(line.matches(" [.]{4} There is no command /(" + letter
                            + "){3,40}….{0,9}[.] Try /help[.]"), line);
                }
            }
        }

        @Test
        @DisplayName("// at the start says a /")
        void twoSlashesSayOne() throws Exception {
            try (var ada = member("/chat/slash"); var bob = member("/chat/slash")) {
                ada.hears(bob.name + ": ");
                for (String said : List.of("/", "/nick x", "//x", "/ ", "/é\n")) {
                    ada.say("/" + said).hears(ada.name + ": " + said);
                    bob.hears(ada.name + ": " + said);
                }
            }
        }

        // -- A client by others --

        @Test
        @DisplayName("the JDK's own client sees the same lines as one of raw bytes")
        void anIndependentClientSeesTheSameLines() throws Exception {
            var lines = new LinkedBlockingQueue<String>();
            var listener = new WebSocket.Listener() {
                private final StringBuilder text = new StringBuilder();

                @Override
                public CompletionStage<?> onText(WebSocket socket, CharSequence part,
                        boolean last) {
                    text.append(part);
                    if (last) {
                        String line = sentence(text.toString());
                        if (!line.isEmpty()) lines.add(line);
                        text.setLength(0);
                    }
                    socket.request(1);
                    return null;
                }
            };
            try (var ada = present("/chat/jdk"); HttpClient client = HttpClient.newHttpClient()) {
                WebSocket socket = opening(client).subprotocols("presence")
                        .buildAsync(URI.create("ws://localhost:" + chat.webSocketPort()
                        + "/chat/jdk"), listener).join();
                socket.sendText("/nick jdk", true).join();
                socket.sendText("from ", false).join();
                socket.sendText("elsewhere 😀", true).join();
                String arrival = ada.raw.line(), name = arrival.split(" ")[2];
                ada.hears(" .... " + name + " is now jdk.", "jdk: from elsewhere 😀").say("bye");
                for (String line : List.of(arrival, " .... " + name + " is now jdk.",
                        "jdk: from elsewhere 😀", ada.name + ": bye"))
                    assertEquals(line, lines.poll(PATIENCE, TimeUnit.SECONDS));
                socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
                ada.hears(ada.name + ": bye", " .... jdk has left.").hearsNothing();
                assertTrue(lines.isEmpty(), lines.toString());
            }
        }
    }

    // ---- Order under load: nobody misses a line, nobody gets one twice ------------------------

    @Nested
    @DisplayName("Order under load")
    class OrderUnderLoad {
        static final int TALKERS = 200, LINES = 500, GUESTS = 200, GUESTS_AT_A_TIME = 25;
        /// What is heard of somebody besides his lines, which are numbers from 0 on.
        static final int TICK = 1021, JOINED = 1022, LEFT = 1023;

        /// Somebody who has come, and all that he has heard, from his arrival on. A line is a
        /// number (of his name, and what was said), for there are 20 million of them.
        private static final class Hearer implements AutoCloseable {
            final Raw raw;
            int[] lines = new int[1024];
            int count, said, ticks;
            private final byte[] bytes = new byte[1 << 16];
            private int from, to;

            Hearer(Chat chat) throws IOException {
                raw = Raw.open(chat, "/chat/load", PRESENCE);
                raw.socket.setSoTimeout(5 * PATIENCE * 1000);
                hear();
                assertEquals(JOINED, lines[0] % 1024, "the first line is not the arrival");
            }

            /// Hears one frame, after what says only how one is called.
            /// @return false if it is a Close
            boolean hear() throws IOException {
                await(2);
                await(2 + bytes[from + 1]);
                int first = bytes[from], end = from + 2 + bytes[from + 1], kind = bytes[from + 2];
                if (first == (byte) 0x88) return false;
                assertEquals((byte) 0x81, first);
                if (kind == 'y') {                              // "you user-7"
                    from = end;
                    return hear();
                }
                from += kind == 'j' ? 14 : 12;      // "joined user-7 2", "left user-7 2", "said …"
                int who = number(end), what = kind == 'j' ? JOINED : LEFT;
                from++;
                if (kind == 's') what = number(end);
                if (what < LINES) said++;
                if (what == TICK) ticks++;
                if (count == lines.length) lines = Arrays.copyOf(lines, 2 * count);
                lines[count++] = who * 1024 + what;
                from = end;
                return true;
            }

            private void await(int size) throws IOException {
                while (to - from < size) {
                    System.arraycopy(bytes, from, bytes, 0, to -= from);
                    from = 0;
                    int got = raw.in.read(bytes, to, bytes.length - to);
                    if (got < 0) throw new EOFException();
                    to += got;
                }
            }

            private int number(int end) {
                int number = 0;
                for (; from < end && bytes[from] >= '0' && bytes[from] <= '9'; from++)
                    number = number * 10 + bytes[from] - '0';
                return number;
            }

            int[] all() { return Arrays.copyOf(lines, count); }
            @Override public void close() throws IOException { raw.close(); }
        }

        @Test
        @DisplayName("200 say 500 lines each, 200 come and go: all hear the same")
        void allHearTheSame() throws Exception {
            try (var executor = Executors.newVirtualThreadPerTaskExecutor();
                    Chat chat = chat(); var last = new Hearer(chat)) {
                var talkers = new ArrayList<Hearer>();
                for (int i = 0; i < TALKERS; i++) talkers.add(new Hearer(chat));
                var visits = new ArrayList<Future<List<int[]>>>();
                var toCome = new AtomicInteger(GUESTS);
                for (int i = 0; i < GUESTS_AT_A_TIME; i++) visits.add(executor.submit(() -> {
                    var heard = new ArrayList<int[]>();
                    for (int n; (n = toCome.getAndDecrement()) > 0; ) heard.add(visit(chat, n));
                    return heard;
                }));
                var hearing = new ArrayList<Future<int[]>>();
                for (Hearer talker : talkers) {
                    executor.submit(() -> {
                        for (int i = 0; i < LINES; i++) talker.raw.text("" + i);
                        return null;
                    });
                    hearing.add(executor.submit(() -> {
                        while (talker.said < TALKERS * LINES) talker.hear();
                        return talker.all();
                    }));
                }
                // Lest a guest wait for a line for ever, somebody always says one. What he heard
                // before his last one is all that anybody heard.
                for (boolean over = false; !over; ) {
                    over = last.said >= TALKERS * LINES && visits.stream().allMatch(Future::isDone);
                    last.raw.text("" + TICK);
                    for (int before = last.ticks; before == last.ticks; ) last.hear();
                }
                int[] all = last.all();
                assertComplete(all);
                for (int i = 0; i < TALKERS; i++) assertHasHeard(all, hearing.get(i).get());
                int guests = 0;
                for (var visit : visits) for (int[] heard : visit.get()) {
                    assertHasHeard(all, heard);
                    guests++;
                }
                assertEquals(GUESTS, guests);

                for (Hearer talker : talkers) talker.close();
                for (int from = 0, here = TALKERS + GUESTS; here > 0; ) {
                    while (from == last.count) last.hear();
                    if (last.lines[from++] % 1024 == LEFT) here--;
                }
                last.raw.text("/who");
                assertTrue(last.raw.line().startsWith(" .... 1 here: "));
                last.raw.bye();
                eventually(true, () -> isEmpty(rooms(chat)));
            }
        }

        /// Comes, hears some lines, and goes: with FIN, with RST, or properly.
        private static int[] visit(Chat chat, int number) throws IOException {
            try (var guest = new Hearer(chat)) {
                while (guest.count < 10 * number) guest.hear();
                if (number % 3 == 0) guest.raw.reset();
                if (number % 3 == 1) {
                    guest.raw.frame(0x88);
                    while (guest.hear()) continue;
                }
                return guest.all();
            }
        }

        /// Of each talker there are all lines, in his own order.
        private static void assertComplete(int[] all) {
            var next = new HashMap<Integer, Integer>();
            for (int line : all) if (line % 1024 < LINES)
                assertEquals(next.merge(line / 1024, 1, Integer::sum) - 1, line % 1024);
            assertEquals(Collections.nCopies(TALKERS, LINES), List.copyOf(next.values()));
        }

        /// What somebody has heard, from his arrival on, stands in a row in what one has heard who
        /// was there all the time.
        private static void assertHasHeard(int[] all, int[] one) {
            for (int i = 0; i + one.length <= all.length; i++)
                if (all[i] == one[0] && Arrays.equals(all, i, i + one.length, one, 0, one.length))
                    return;
            fail("one has heard " + one.length + " lines that nobody else has heard like that");
        }
    }

    // ---- Slow readers: nobody waits for them --------------------------------------------------

    @Nested
    @DisplayName("Slow readers")
    class SlowReaders {
        /// Connects with little room for what has come and is not read.
        private static Raw stalled(int port) throws IOException {
            var socket = new Socket();
            socket.setReceiveBufferSize(4096);
            socket.connect(new InetSocketAddress(InetAddress.getLoopbackAddress(), port));
            return new Raw(socket);
        }

        private static Raw stalled(Chat chat, String path) throws IOException {
            return stalled(chat.webSocketPort()).shakeHands(path);
        }

        /// Waits until a sender has sent all or can't get rid of any more.
        private static void untilItStandsStill(AtomicInteger sent) throws Exception {
            for (int last = -1, still = 0; still < 20; Thread.sleep(20)) {
                still = sent.get() == last ? still + 1 : 0;
                last = sent.get();
            }
        }

        @Test
        @DisplayName("of 21, 20 stop reading: nobody who writes to them is waited for")
        void manyWhoStopReadingDelayNobody() throws Exception {
            String filler = "x".repeat(500_000);
            try (Chat chat = chat("--no-deflate");
                    Raw reader = Raw.open(chat, "/chat/stuck")) {
                reader.assertNothingMore();
                var stuck = new ArrayList<Raw>();
                for (int i = 0; i < 20; i++) stuck.add(stalled(chat, "/chat/stuck"));
                for (int i = 0; i < 10; i++) {
                    reader.text(i + filler);
                    assertTrue(reader.line().endsWith(": " + i + filler), "line " + i);
                }
                for (Raw each : stuck) each.close();
            }
        }

        @Test
        @DisplayName("of 40, one stops reading and 20 MB are said: 39 get all, he is cut off")
        void whoStopsReadingDelaysNobody() throws Exception {
            int members = 40, lines = 200, batch = 20;
            String filler = "x".repeat(100_000);
            try (Chat chat = chat("--no-deflate");
                    var executor = Executors.newVirtualThreadPerTaskExecutor();
                    Raw slow = stalled(chat, "/chat/slow")) {
                String slowName = slow.text("").line().replace(": ", "");
                var others = new ArrayList<Raw>();
                for (int i = 1; i < members; i++) {
                    Raw raw = Raw.open(chat, "/chat/slow");
                    raw.assertNothingMore();
                    others.add(raw);
                }
                long memory = usedMemory();
                Raw talker = others.get(0);
                boolean told = false;
                for (int line = 0; line < lines; line += batch) {
                    int first = line;
                    var heard = new ArrayList<Future<Boolean>>();
                    for (Raw other : others) heard.add(executor.submit(() -> {
                        boolean left = false;
                        for (int i = first; i < first + batch; ) {
                            String text = other.line();
                            if (text.equals(" .... " + slowName + " has left.")) left = true;
                            else assertTrue(text.endsWith(": " + i++ + filler), text);
                        }
                        return left;
                    }));
                    for (int i = first; i < first + batch; i++) talker.text(i + filler);
                    var now = new HashSet<Boolean>();
                    for (var each : heard) now.add(each.get(3 * PATIENCE, TimeUnit.SECONDS));
                    assertEquals(1, now.size(), "some were told that he has left, some not");
                    told |= now.contains(true);
                }
                assertTrue(told, "he is still there");
                eventually(true, () -> usedMemory() - memory < 4 << 20);
                int next = 0;                     // what he got is the beginning, without a gap
                try {
                    while (true) assertTrue(slow.line().endsWith(": " + next++ + filler), "a gap");
                } catch (IOException | AssertionError end) {
                    assertFalse("a gap".equals(end.getMessage()), "after " + next);
                }
                assertTrue(next < lines, "he got everything");
                talker.text("/who");
                assertTrue(talker.line().startsWith(" .... " + (members - 1) + " here: "));
                for (Raw other : others) other.close();
            }
        }

        @Test
        @DisplayName("who talks more than he hears is slowed by that, and gets all of it")
        void aTalkerIsSlowedNotCutOff() throws Exception {
            int lines = 1000;
            String filler = "x".repeat(20_000);
            try (Chat chat = chat("--no-deflate", "--max-queue=200000");
                    var executor = Executors.newVirtualThreadPerTaskExecutor();
                    Raw talker = stalled(chat, "/chat/flood")) {
                var said = new AtomicInteger();
                var talking = executor.submit(() -> {
                    for (int i = 0; i < lines; i++) {
                        talker.text(i + filler);
                        said.incrementAndGet();
                    }
                    return null;
                });
                untilItStandsStill(said);
                assertTrue(said.get() < lines, "the server took more than it may keep");
                for (int i = 0; i < lines; i++)
                    assertTrue(talker.line().endsWith(": " + i + filler));
                talking.get();
                talker.bye();
            }
        }

        @Test
        @DisplayName("who sends a million pings and reads nothing fills no memory, and is cut off")
        void whoNeverReadsIsCutOff() throws Exception {
            try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                    var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                var opened = new CompletableFuture<Chat.WebSocket>();
                var served = executor.submit(() -> {
                    Chat.WebSocket.serve(listener.accept(), webSocket -> {
                        opened.complete(webSocket);
                        while (webSocket.receive() != null) continue;
                    });
                    return null;
                });
                try (Raw deaf = stalled(listener.getLocalPort()).shakeHands("/")) {
                    Chat.WebSocket webSocket = opened.get();
                    long memory = usedMemory();
                    byte[] pings = new byte[1000 * 131];
                    for (int i = 0; i < 1000; i++)
                        System.arraycopy(masked(0x89, new byte[125]), 0, pings, i * 131, 131);
                    var sent = new AtomicInteger();
                    var sending = executor.submit(() -> {
                        for (int i = 0; i < 1000; i++, sent.incrementAndGet()) deaf.write(pings);
                        return null;
                    });
                    untilItStandsStill(sent);
                    assertTrue(usedMemory() - memory < 4 << 20, "pongs pile up");
                    // Nothing could be written to him for twice the silent interval.
                    Field outbox = field(Chat.WebSocket.class, "outbox");
                    Field progress = field(outbox.getType(), "progress");
                    eventually(true, () -> {
                        progress.setLong(outbox.get(webSocket), System.nanoTime()
                                - TimeUnit.SECONDS.toNanos(2 * Chat.WebSocket.SILENCE + 1));
                        return served.isDone();
                    });
                    sending.cancel(true);
                }
            }
        }

        @Test
        @DisplayName("who talks much and reads nothing does not hold up his room")
        void aDeafTalkerDoesNotHoldUpHisRoom() throws Exception {
            int much = 1 << 24;                     // more than the buffers of a socket hold
            try (Chat chat = chat("--max-message=" + (much + 128), "--max-queue=100000000");
                    Raw ada = Raw.open(chat, "/chat/x").assertNothingMore();
                    Raw bob = Raw.open(chat, "/chat/x").assertNothingMore();
                    Raw deaf = stalled(chat, "/chat/x")) {
                // No input waits behind it: his own thread would write, if it might, and get stuck.
                deaf.frame(0x81, new byte[much]);
                bob.line();
                ada.text("hello");
                assertTrue(bob.line().endsWith(": hello"));
            }
        }
    }

    // ---- Limits: nobody gets more than his share ----------------------------------------------

    @Nested
    @DisplayName("Limits")
    class Limits extends Served {
        Limits() { super("--max-connections=2000"); }

        private static String answer(Chat chat, String request) throws IOException {
            try (Raw raw = new Raw(chat.webSocketPort())) {
                return raw.ascii(request).readAll();
            }
        }

        /// Whoever hears an answer to a ping has been counted.
        private static Raw guest(Chat chat) throws IOException {
            Raw raw = Raw.open(chat, "/echo");
            raw.assertNothingMore();
            return raw;
        }

        private static void assertStatus(int status, String answer) {
            assertTrue(answer.startsWith("HTTP/1.1 " + status + " "), answer);
        }

        @Test
        @DisplayName("a head may have 16 KiB; one byte more is 431")
        void aHeadHas8KiB() throws Exception {
            for (String where : List.of("X: ", "/echo?")) {
                String usual = where.equals("X: ") ? request("/echo", where) : request(where);
                String filler = "x".repeat(Chat.WebSocket.MAX_HEAD - usual.length());
                try (Raw raw = new Raw(chat.webSocketPort())) {
                    assertStatus(101, raw.ascii(usual.replace(where, where + filler)).readHead());
                }
                assertStatus(431, answer(chat, usual.replace(where, where + filler + "x")));
            }
        }

        @Test
        @DisplayName("a message may have 100,000 empty fragments; one more is 1008")
        void aMessageHas100000EmptyFragments() throws Exception {
            int most = Chat.WebSocket.MAX_FRAGMENTS;
            for (int more = 0; more < 2; more++)
                try (Raw raw = Raw.open(chat, "/echo")) {
                    byte[] one = masked(0x00), all = new byte[(most + more) * one.length];
                    for (int i = 0; i < all.length; i++) all[i] = one[i % one.length];
                    all[0] = 0x01;
                    raw.write(all);
                    if (more == 1) raw.assertClosed(1008);
                    else assertEquals("x", raw.frame(0x80, utf8("x")).line());
                }
        }

        @Test
        @DisplayName("beyond --max-connections the answer is 503, until somebody goes")
        void beyondTheMostConnectionsTheAnswerIs503() throws Exception {
            try (Chat small = chat("--max-connections=3"); Raw ada = guest(small);
                    Raw bob = guest(small); Raw silent = new Raw(small.webSocketPort())) {
                eventually(true, () -> answer(small, request("/echo")).startsWith("HTTP/1.1 503"));
                String answer = answer(small, request("/chat"));
                assertTrue(answer.contains("too many connections"), answer);
                assertEquals("Hello", ada.text("Hello").line());
                silent.socket.close();
                bob.bye();
                bob.socket.close();
                eventually(true, () -> {
                    try (Raw raw = new Raw(small.webSocketPort())) {
                        return raw.ascii(request("/echo")).readHead().startsWith("HTTP/1.1 101");
                    }
                });
                ada.assertNothingMore();
            }
        }

        @Test
        @DisplayName("who waits to be told 503 costs something, too: of those there are 500")
        void theWaitingRoomHasAnEnd() throws Exception {
            var waiting = new ArrayList<Raw>();
            try (Chat small = chat("--max-connections=1"); Raw ada = guest(small)) {
                boolean full = false;
                while (!full && waiting.size() < 3 * Chat.WAITING_ROOM) {
                    for (int i = 0; i < 100; i++) waiting.add(new Raw(small.webSocketPort()));
                    Raw last = new Raw(small.webSocketPort());
                    waiting.add(last);
                    last.socket.setSoTimeout(200);
                    try {
                        full = last.in.read() < 0;
                    } catch (SocketTimeoutException accepted) {
                        full = false;
                    } catch (SocketException reset) {
                        full = true;
                    }
                }
                assertTrue(full, "after " + waiting.size() + " connections still no end");
                assertEquals("Hello", ada.text("Hello").line());
            } finally {
                for (Raw raw : waiting) raw.close();
            }
        }

        @Test
        @DisplayName("beyond --max-per-address the answer is 503, but not on the loopback address")
        void oneAddressHasAFewConnections() throws Exception {
            InetAddress other = otherAddress();
            try (Chat wide = chat("--host=0.0.0.0", "--max-per-address=2");
                    Raw ada = new Raw(new Socket(other, wide.webSocketPort()));
                    Raw bob = new Raw(new Socket(other, wide.webSocketPort()))) {
                ada.shakeHands("/echo").assertNothingMore();
                bob.shakeHands("/echo").assertNothingMore();
                try (Raw third = new Raw(new Socket(other, wide.webSocketPort()))) {
                    assertStatus(503, third.ascii(request("/echo")).readAll());
                }
                for (int i = 0; i < 3; i++) guest(wide).close();
                ada.bye();
                ada.socket.close();
                eventually(true, () -> {
                    try (Raw raw = new Raw(new Socket(other, wide.webSocketPort()))) {
                        return raw.ascii(request("/echo")).readHead().startsWith("HTTP/1.1 101");
                    }
                });
            }
        }

        @Test
        @DisplayName("there are at most 10,000 rooms; beyond that 503 for a new one")
        void thereAre10000Rooms() throws Exception {
            try (Chat crowded = chat()) {
                Chat.Rooms rooms = rooms(crowded);
                var settings = new Chat.WebSocket.Settings();
                var members = new ArrayList<Chat.Rooms.Member>();
                for (int i = 0; i < Chat.Rooms.MAX_ROOMS - 1; i++)
                    members.add(rooms.enter(new Chat.WebSocket(null, settings), "room-" + i));
                Raw last = Raw.open(crowded, "/chat/last", PRESENCE);
                last.line();
                assertStatus(503, answer(crowded, request("/chat/new")));
                Raw.open(crowded, "/chat/last").close();
                Raw.open(crowded, "/chat/room-7").close();
                guest(crowded).close();
                rooms.leave(members.remove(9));
                Raw.open(crowded, "/chat/new").close();
                members.forEach(rooms::leave);
                last.close();
                eventually(true, () -> isEmpty(rooms));
            }
        }

        @Test
        @DisplayName("who lets more than --max-queue bytes pile up is cut off, to the byte")
        void theQueueHasAnEnd() throws Exception {
            var settings = settings(line -> { });
            settings.maxQueue = 1000;
            try (var reads = new Semaphoric(); var executor =
                    Executors.newVirtualThreadPerTaskExecutor()) {
                var opened = new CompletableFuture<Chat.WebSocket>();
                executor.submit(() -> new Chat.WebSocket(reads, settings).serve(
                        handshake -> List.of(), webSocket -> {
                    opened.complete(webSocket);
                    while (webSocket.receive() != null) continue;
                }));
                Chat.WebSocket webSocket = opened.get(PATIENCE, TimeUnit.SECONDS);
                reads.stalled.set(true);
                var hundred = new Chat.WebSocket.Message(false, new byte[98]);
                for (int bytes = 100; bytes <= 1000; bytes += 100)
                    assertTrue(webSocket.send(hundred), bytes + " bytes are not too many");
                webSocket.send(hundred);                    // exceeds it; the next one finds that
                assertFalse(webSocket.send(hundred), "1100 bytes are too many");
                assertFalse(webSocket.send(hundred));
                assertTrue(reads.isClosed());
            }
        }

        /// A socket whose peer has sent a handshake, and reads nothing while it is stalled.
        private static final class Semaphoric extends Socket {
            final AtomicBoolean stalled = new AtomicBoolean();
            private final CountDownLatch closed = new CountDownLatch(1);

            @Override public void setTcpNoDelay(boolean on) { }
            @Override public void setSendBufferSize(int bytes) { }
            @Override public void setSoLinger(boolean on, int seconds) { }
            @Override public void shutdownOutput() { }
            @Override public boolean isClosed() { return closed.getCount() == 0; }
            @Override public void close() { closed.countDown(); }

            private int untilClosed() throws IOException {
                try {
                    closed.await();
                } catch (InterruptedException interrupted) {
                    throw new InterruptedIOException();
                }
                throw new SocketException("Socket closed");
            }

            @Override
            public InputStream getInputStream() {
                return new SequenceInputStream(new ByteArrayInputStream(utf8(request("/"))),
                        new InputStream() {
                    @Override public int read() throws IOException { return untilClosed(); }
                });
            }

            @Override
            public OutputStream getOutputStream() {
                return new OutputStream() {
                    @Override public void write(int one) throws IOException { write(null, 0, 1); }
                    @Override public void write(byte[] bytes, int from, int count)
                            throws IOException {
                        if (stalled.get()) untilClosed();
                    }
                };
            }
        }

        @Test
        @DisplayName("1,000 declared lengths of 1 MiB cost nothing before the bytes are there (S2)")
        void aDeclaredLengthCostsNothing() throws Exception {
            var all = new ArrayList<Raw>();
            try {
                for (int i = 0; i < 1000; i++) all.add(guest(chat));
                long before = usedMemory();
                for (Raw raw : all) raw.hex("82 ff 00 00 00 00 00 10 00 00 37 fa 21 3d 00");
                for (Raw raw : all) raw.write(new byte[2000]);
                Field connections = field(Chat.class, "connections");
                Field reader = field(Chat.WebSocket.class, "reader");
                Field gathered = field(Chat.WebSocket.Reader.class, "arrived");
                eventually(2_001_000, () -> {               // now all of that has been read
                    int sum = 0;
                    for (Object each : (Set<?>) connections.get(chat))
                        sum += gathered.getInt(reader.get(each));
                    return sum;
                });
                long growth = usedMemory() - before;
                assertTrue(growth < 100 << 20, growth + " bytes for 2 MB that have come");
                all.get(0).write(new byte[(1 << 20) - 2001]);
                assertEquals(1 << 20, all.get(0).frame().payload().length);
            } finally {
                for (Raw raw : all) raw.reset();
            }
        }

        @Test
        @DisplayName("handshake and farewell have an end, whatever still comes (S7, S10)")
        void handshakeAndFarewellHaveAnEnd() throws Exception {
            int handshake = Chat.WebSocket.HANDSHAKE_TIME, farewell = Chat.WebSocket.CLOSE_TIME;
            String start = "GET / HTTP/1.1\r\nHost: localhost\r\n";
            Callable<Raw> silent = () -> new Raw(chat.webSocketPort());
            Callable<Raw> half = () -> silent.call().ascii(start);
            var options = new Chat.Options("--http-port=0", "--ws-port=0");
            options.settings.tls = SSLContext.getDefault();     // no certificate gets that far
            try (Chat secure = new Chat(options).start(); Raw ada = guest(chat);
                    var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                Callable<Raw> hello = () -> new Raw(secure.webSocketPort())
                        .hex("16 03 03 40 00 01 00 3f fc 03 03");
                var ends = List.of(executor.submit(() -> lasts(handshake, silent, "")),
                        executor.submit(() -> lasts(handshake, silent, "X: 1\r\n")),
                        executor.submit(() -> lasts(handshake, silent, start + "X")),
                        executor.submit(() -> lasts(handshake, half, "X")),
                        executor.submit(() -> lasts(handshake, half, "")),
                        executor.submit(() -> lasts(handshake,
                                () -> new Raw(secure.webSocketPort()), "")),
                        executor.submit(() -> lasts(handshake, hello, "")),
                        executor.submit(() -> lasts(handshake, hello, "x")),
                        executor.submit(() -> lasts(0,
                                () -> new Raw(chat.httpPort()).ascii(start), "X")),
                        executor.submit(() -> lasts(farewell,
                                () -> Raw.open(chat, "/echo").frame(0x88), "\0")),
                        executor.submit(() -> lasts(farewell,
                                () -> Raw.open(chat, "/echo").frame(0x83), "\0")),
                        executor.submit(() -> lasts(farewell,
                                () -> Raw.open(chat, "/chat/binary").frame(0x82), "\0")),
                        executor.submit(() -> lasts(farewell, () -> Raw.open(chat,
                                "/chat/binary").frame(0x82), new String(masked(0x01, utf8("x")),
                                StandardCharsets.ISO_8859_1))),
                        executor.submit(() -> lasts(farewell,
                                () -> silent.call().ascii("nonsense\r\n\r\n"), "x")));
                for (var end : ends) end.get();
                assertEquals("Hello", ada.text("Hello").line());
            }
        }

        /// The server ends the connection for good, but not before so many seconds, though a piece
        /// comes every 50 ms ("": nothing comes).
        private static Void lasts(int seconds, Callable<Raw> opening, String piece)
                throws Exception {
            long start = System.nanoTime(), most = TimeUnit.SECONDS.toNanos(3 * PATIENCE);
            try (Raw raw = opening.call()) {
                raw.socket.setSoTimeout(50);
                for (boolean ended = false; !ended; ) {
                    assertTrue(System.nanoTime() - start < most, "it never ends: " + seconds
                            + raw.socket + piece);
                    try {
                        raw.write(piece.getBytes(StandardCharsets.ISO_8859_1));
                        while (raw.in.read() >= 0) continue;
                        ended = piece.isEmpty();            // FIN; but does it still take bytes?
                        Thread.sleep(50);
                    } catch (SocketTimeoutException nothing) {
                        continue;
                    } catch (SocketException reset) {
                        ended = true;
                    }
                }
            }
            long lasted = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
            assertTrue(lasted >= 1000L * seconds, "it ended after " + lasted + " ms: " + piece);
            return null;
        }

        @Test
        @DisplayName("whoever goes, with FIN or RST, at any byte, leaves nothing behind (S7)")
        void whoeverGoesAtAnyByteLeavesNothing() throws Exception {
            byte[] life = join(utf8(request("/chat/end", PRESENCE)),
                    masked(0x01, utf8("Hel")), masked(0x89, utf8("?")), masked(0x80, utf8("lo")),
                    masked(0x88, bytes("03 e8")));
            try (Chat own = chat()) {
                Chat.Rooms rooms = rooms(own);
                long threads = serverThreads().size();
                for (int length = 0; length <= life.length; length++)
                    for (boolean reset : List.of(false, true)) {
                        Raw raw = new Raw(own.webSocketPort());
                        raw.write(Arrays.copyOf(life, length));
                        if (length % 3 == 0) raw.socket.shutdownOutput();
                        if (reset) raw.reset();
                        raw.close();
                    }
                eventually(true, () -> isEmpty(rooms));
                eventually(true, () -> serverThreads().size() <= threads + 1);   // 1: the watcher
                guest(own).close();
            }
        }

        @Test
        @DisplayName("without file descriptors it goes on, idly; with some again, as before")
        void withoutFileDescriptorsItGoesOn() throws Exception {
            assumeTrue(new File("/proc/self/fd").exists(), "only a Unix has ulimit");
            var all = new ArrayList<Raw>();
            try (Program chat = Program.under(List.of("sh", "-c",
                    "ulimit -n 80; exec \"$0\" \"$@\""))) {
                int port = chat.ready().webSocketPort();
                Raw ada = new Raw(port).shakeHands("/echo");
                all.add(ada);
                assertEquals("Hello", ada.text("Hello").line());
                new Raw(port).ascii("\r\n\r\n").readAll();      // loads the classes for failures
                int failures = 10;
                long start = System.nanoTime();
                for (int i = 0; i < 100; i++) all.add(new Raw(port));
                for (int i = 0; i < failures; )
                    if (chat.next(chat.err).contains("can't accept")) i++;
                long lasted = System.nanoTime() - start;            // with a pause before each line
                assertTrue(lasted >= failures * Chat.PAUSE, "it spins: " + lasted + " ns");
                assertEquals("Hello", ada.text("Hello").line());
                for (Raw raw : all.subList(1, all.size())) raw.close();
                Raw bob = new Raw(port).shakeHands("/echo");
                all.add(bob);
                assertEquals("Hello", bob.text("Hello").line());
                assertEquals("Hello", ada.text("Hello").line());
            } finally {
                for (Raw raw : all) raw.close();
            }
        }

        @Test
        @DisplayName("--help names every limit with its value")
        void helpNamesEveryLimit() {
            String help = Chat.Options.USAGE.replaceAll("\\s+", " ");
            var usual = new Chat.Options();
            for (int value : new int[] {usual.settings.maxMessage, usual.settings.maxQueue,
                    usual.maxConnections, usual.maxPerAddress, Chat.WebSocket.MAX_HEADERS,
                    Chat.Rooms.MAX_ROOMS})
                assertTrue(help.contains("" + value), value + " is not in:\n" + help);
            for (int seconds : new int[] {Chat.WebSocket.HANDSHAKE_TIME, Chat.WebSocket.SILENCE,
                    2 * Chat.WebSocket.SILENCE, Chat.WebSocket.CLOSE_TIME})
                assertTrue(help.contains(seconds + " s"), seconds + " s is not in:\n" + help);
            assertTrue(help.contains(Chat.WebSocket.MAX_HEAD / 1024 + " KiB"), help);
        }
    }

    // ---- Slow links: who reads steadily stays, and is heard -----------------------------------

    @Nested
    @DisplayName("Slow links")
    class SlowLinks {
        /// The server's side of those who are connected.
        private static List<Chat.WebSocket> connections(Chat chat) throws Exception {
            return ((Set<?>) field(Chat.class, "connections").get(chat)).stream()
                    .map(Chat.WebSocket.class::cast).toList();
        }

        /// Lets time pass for a connection: all moments that it remembers are longer ago, and then
        /// the server looks after it.
        private static void age(Chat.WebSocket webSocket, int seconds) throws Exception {
            shift(webSocket, TimeUnit.SECONDS.toNanos(seconds));
            PingPong.lookAfter(webSocket, 0);
        }

        private static void shift(Object object, long nanoseconds) throws Exception {
            for (Field field : object.getClass().getDeclaredFields()) {
                if (java.lang.reflect.Modifier.isStatic(field.getModifiers())) continue;
                field.setAccessible(true);
                Object value = field.get(object);
                if (MOMENTS.contains(field.getName()))
                    field.setLong(object, (long) value - nanoseconds);
                if (value != null && List.of("Outbox", "Reader").contains(
                        value.getClass().getSimpleName())) shift(value, nanoseconds);
            }
        }

        private static final Set<String> MOMENTS =
                Set.of("progress", "heard", "pingedAt", "deadline");

        /// Says this often to a room, and hears himself.
        private static void say(Raw talker, String text, int times) throws IOException {
            for (int i = 0; i < times; i++) {
                talker.text(text);
                while (!talker.line().endsWith(text)) continue;
            }
        }

        @Test
        @DisplayName("who reads 125 kB a second, steadily, gets all and is not cut off")
        void whoReadsSteadilyIsNotCutOff() throws Exception {
            String filler = "x".repeat(99_990);
            int lines = 240, step = 30, seconds = 24;           // 24 MB, of which sockets hold 4
            try (Chat chat = chat("--no-deflate", "--max-queue=60000000");
                    Raw steady = SlowReaders.stalled(chat, "/chat/steady").assertNothingMore()) {
                Chat.WebSocket webSocket = connections(chat).get(0);
                try (Raw talker = Raw.open(chat, "/chat/steady").assertNothingMore()) {
                    say(talker, filler, lines);
                }
                for (int line = 0; line < lines; line++) {
                    assertTrue(lineOrPing(steady).endsWith(filler));
                    if (line % step == step - 1) age(webSocket, seconds);
                }
                assertTrue(lineOrPing(steady).endsWith(" has left."));
                steady.frame(0x8a).text("still here");
                assertTrue(lineOrPing(steady).endsWith(": still here"));
            }
        }

        /// The next line; a ping may come before it, as somebody has been silent for long.
        private static String lineOrPing(Raw raw) throws IOException {
            Frame frame = raw.frame();
            return frame.first() == 0x89 ? raw.line() : frame.text();
        }

        @Test
        @DisplayName("§5.5.3 who sends pings over a full link is heard, and the last one is answered")
        void whoSendsPingsOverAFullLinkIsHeard() throws Exception {
            String filler = "x".repeat(99_990);
            int lines = 100;                                            // 10 MB
            try (Chat chat = chat("--no-deflate", "--max-queue=60000000");
                    Raw slow = SlowReaders.stalled(chat, "/chat/pings").assertNothingMore();
                    Raw talker = Raw.open(chat, "/chat/pings").assertNothingMore()) {
                say(talker, filler, lines);
                for (int i = 0; i < 100; i++) slow.frame(0x89, utf8("%02d".formatted(i)));
                slow.text("hello");
                assertTrue(talker.line().endsWith(": hello"));
                String last = "";
                for (int line = 0; line <= lines; ) {
                    Frame frame = slow.frame();
                    if (frame.first() == 0x81) line++;
                    else assertTrue(last.compareTo(last = frame.text()) < 0, "an old pong");
                }
                while (!last.equals("99")) last = slow.frame().text();
                slow.bye();
            }
        }

        @Test
        @DisplayName("a frame has an end in time: not one byte in 20 s for ever")
        void aFrameHasAnEndInTime() throws Exception {
            try (Chat chat = chat(); Raw raw = Raw.open(chat, "/echo").assertNothingMore()) {
                Chat.WebSocket webSocket = connections(chat).get(0);
                Object reader = field(Chat.WebSocket.class, "reader").get(webSocket);
                Field length = field(reader.getClass(), "arrived");
                raw.hex("82 ff 00 00 00 00 00 0f ff ff 00 00 00 00");
                int sent = 0;
                for (; sent < 100 && webSocket.state() == Chat.WebSocket.State.OPEN; sent++) {
                    raw.write((byte) 0);
                    int all = sent + 1;
                    eventually(true, () -> length.getInt(reader) == all
                            || webSocket.state() != Chat.WebSocket.State.OPEN);
                    age(webSocket, 20);
                }
                assertTrue(sent < 100, "after 100 bytes in 2,000 s it still goes on");
            }
        }

        @Test
        @DisplayName("who floods a room is slowed: who reads on misses nothing, who doesn't is cut off")
        void whoFloodsARoomIsSlowed() throws Exception {
            int lines = 1200;                                           // 12 MB, 4 of them in sockets
            String filler = "x".repeat(10_000);
            try (Chat chat = chat("--no-deflate", "--max-queue=1000000");
                    var executor = Executors.newThreadPerTaskExecutor(Thread::new);
                    Raw deaf = SlowReaders.stalled(chat, "/chat/flood").assertNothingMore();
                    Raw talker = Raw.open(chat, "/chat/flood").assertNothingMore();
                    Raw ada = Raw.open(chat, "/chat/other").assertNothingMore();
                    Raw bob = Raw.open(chat, "/chat/other").assertNothingMore()) {
                var steady = new ArrayList<Raw>();
                for (int i = 0; i < 5; i++)
                    steady.add(SlowReaders.stalled(chat, "/chat/flood").assertNothingMore());
                String deafName = deaf.text("").line().replace(": ", "");
                var all = new ArrayList<Future<Boolean>>();
                for (Raw raw : steady)
                    all.add(executor.submit(() -> hearsAll(raw, filler, lines, 4_000_000)));
                all.add(executor.submit(() -> hearsAll(talker, filler, lines, Long.MAX_VALUE)));
                executor.submit(() -> {
                    for (int i = 0; i < lines; i++) talker.text(i + filler);
                    return null;
                });
                long quiet = 0, start = System.nanoTime();
                for (long before = start; !all.stream().allMatch(Future::isDone); ) {
                    ada.text("meanwhile");
                    assertTrue(bob.line().endsWith(": meanwhile"));
                    ada.line();
                    long now = System.nanoTime();
                    quiet = Math.max(quiet, now - before);
                    before = now;
                }
                long lasted = System.nanoTime() - start;
                for (var each : all) assertTrue(each.get(), deafName + " was not cut off");
                assertTrue(quiet < lasted / 4, "another room waited for " + quiet + " of " + lasted);
                for (Raw raw : steady) raw.close();
            }
        }

        /// Reads at most so many bytes a second. @return whether the one who is deaf has left
        private static Boolean hearsAll(Raw raw, String filler, int lines, long rate)
                throws IOException {
            long start = System.nanoTime(), heard = 0;
            boolean left = false;
            for (int i = 0; i < lines; ) {
                String line = raw.line();
                heard += line.length();
                if (line.endsWith(" has left.")) left = true;
                else if (line.endsWith(": " + i + filler)) i++;
                else assertTrue(line.endsWith(": "), () -> "a gap: " + line.substring(0, 30));
                long due = start + (long) (heard * 1e9 / rate);
                java.util.concurrent.locks.LockSupport.parkNanos(due - System.nanoTime());
            }
            return left;
        }
    }

    // ---- Stuck sockets: what waits for one, waits alone ---------------------------------------

    @Nested
    @DisplayName("A socket that is stuck holds up its own connection only")
    class StuckSockets {
        /// A socket whose peer has sent a handshake. Each write waits until it is let through.
        private static class Gated extends Socket {
            final Semaphore gate = new Semaphore(0);
            private final CountDownLatch closed = new CountDownLatch(1);

            @Override public void setTcpNoDelay(boolean on) { }
            @Override public void setSoLinger(boolean on, int seconds) { }
            @Override public void shutdownInput() { }
            @Override public void shutdownOutput() { }
            @Override public boolean isClosed() { return closed.getCount() == 0; }

            @Override
            public void close() {
                closed.countDown();
                gate.release(1000);
            }

            @Override
            public InputStream getInputStream() {
                return new SequenceInputStream(new ByteArrayInputStream(utf8(request("/"))),
                        new InputStream() {
                    @Override
                    public int read() throws IOException {
                        try {
                            closed.await();
                        } catch (InterruptedException interrupted) {
                            throw new InterruptedIOException();
                        }
                        return -1;
                    }
                });
            }

            @Override
            public OutputStream getOutputStream() {
                return new OutputStream() {
                    @Override public void write(int one) throws IOException { write(null, 0, 1); }

                    @Override
                    public void write(byte[] bytes, int from, int count) throws IOException {
                        gate.acquireUninterruptibly();
                        if (isClosed()) throw new SocketException("Socket closed");
                    }
                };
            }
        }

        @Test
        @DisplayName("nobody's own thread writes for others without end")
        void nobodysOwnThreadWritesForOthers() throws Exception {
            var opened = new CompletableFuture<Chat.WebSocket>();
            var goesOn = new CompletableFuture<Void>();
            try (Gated socket = new Gated()) {
                Thread.startVirtualThread(() -> Chat.WebSocket.serve(socket, webSocket -> {
                    opened.complete(webSocket);
                    webSocket.send(Chat.WebSocket.Message.text("an answer of its own"));
                    goesOn.complete(null);
                    while (webSocket.receive() != null) continue;
                }));
                socket.gate.release();                                  // the handshake's answer
                Chat.WebSocket webSocket = opened.get(PATIENCE, TimeUnit.SECONDS);
                eventually(true, socket.gate::hasQueuedThreads);        // that answer of its own
                for (int i = 0; i < 10; i++)
                    webSocket.post(Chat.WebSocket.Message.text("what another says"));
                socket.gate.release();
                goesOn.get(PATIENCE, TimeUnit.SECONDS);
            }
        }

        @Test
        @DisplayName("to cut off does not wait for a write that is stuck")
        void toCutOffDoesNotWait() throws Exception {
            try (Gated socket = new Gated()) {
                var webSocket = new Chat.WebSocket(socket, new Chat.WebSocket.Settings());
                Thread.startVirtualThread(() -> webSocket.serve(handshake -> List.of(),
                        same -> { }));
                eventually(true, socket.gate::hasQueuedThreads);        // the handshake's answer
                Thread.startVirtualThread(() -> webSocket.cutOff("by a test"));
                eventually(true, socket::isClosed);
            }
        }

        @Test
        @DisplayName("an error at its end leaves no connection among the living")
        void anErrorAtItsEndLeavesNoConnection() throws Exception {
            try (Gated socket = new Gated() {
                @Override public void shutdownOutput() { throw new OutOfMemoryError("a test's"); }
            }) {
                var webSocket = new Chat.WebSocket(socket, new Chat.WebSocket.Settings());
                socket.gate.release(1000);
                Thread thread = Thread.startVirtualThread(() -> webSocket.serve(
                        handshake -> List.of(), same -> same.cutOff(null)));
                assertTrue(thread.join(Duration.ofSeconds(PATIENCE)));
                assertFalse(((Set<?>) field(Chat.WebSocket.class, "LIVE").get(null))
                        .contains(webSocket), "it is still watched");
            }
        }
    }

    // ---- Linear cost: twice the bytes are twice the work, and no work comes before its limit --

    @Nested
    @DisplayName("Work is linear in the bytes that came")
    class LinearCost {
        private static final int MANY = 20_000;
        private static final long CLEAR = 100_000_000;          // ns of CPU that can be compared
        private static final String OFFER = "Sec-WebSocket-Extensions: permessage-deflate";

        /// Bytes that this JVM allocates for a task. What a client does here is small beside it.
        private static long allocated(Executable task) throws Exception {
            var threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
            long before = threads.getTotalThreadAllocatedBytes();
            run(task);
            return threads.getTotalThreadAllocatedBytes() - before;
        }

        /// Nanoseconds of CPU that this JVM needs to do a task so often, or up to so many.
        private static long cpu(Executable task, int times, long most) throws Exception {
            var system = (com.sun.management.OperatingSystemMXBean)
                    ManagementFactory.getOperatingSystemMXBean();
            long start = system.getProcessCpuTime(), used = 0;
            for (int i = 0; i < times && used <= most; i++) {
                run(task);
                used = system.getProcessCpuTime() - start;
            }
            return used;
        }

        /// A task may cost a few times as much CPU as another does, but not dozens of times.
        private static void assertAsCheap(Executable usual, Executable task) throws Exception {
            int times = 1;
            while (cpu(usual, times, Long.MAX_VALUE) < CLEAR) times *= 2;
            long cost = cpu(usual, times, Long.MAX_VALUE);
            long other = cpu(task, times, 8 * cost);
            assertTrue(other <= 8 * cost, other + " for " + times + " at most, usual is " + cost);
        }

        private static void run(Executable task) throws Exception {
            try {
                task.execute();
            } catch (Exception | Error failure) {
                throw failure;
            } catch (Throwable other) {
                throw new AssertionError(other);
            }
        }

        /// What costs N for so much costs for twice as much about 2 N, not 4 N.
        private static void assertLinear(long once, long twice) {
            assertTrue(twice < 3 * once, once + " and, for twice as much, " + twice);
        }

        /// A whole message in fragments of one size.
        private static byte[] fragmented(int fragments, int size) {
            byte[] one = masked(0x00, new byte[size]), all = new byte[fragments * one.length];
            for (int i = 0; i < all.length; i++) all[i] = one[i % one.length];
            all[0] = 0x02;
            all[all.length - one.length] = (byte) 0x80;
            return all;
        }

        private static void echoed(Raw raw, byte[] message, int size) throws IOException {
            assertEquals(size, raw.write(message).frame().payload().length);
        }

        @Test
        @DisplayName("§5.4 a message in fragments of one byte costs twice as much for twice as many")
        void fragmentsOfOneByteAreLinear() throws Exception {
            byte[] once = fragmented(MANY, 1), twice = fragmented(2 * MANY, 1);
            try (Chat chat = chat(); Raw raw = Raw.open(chat, "/echo")) {
                echoed(raw, once, MANY);
                assertLinear(allocated(() -> echoed(raw, once, MANY)),
                        allocated(() -> echoed(raw, twice, 2 * MANY)));
                raw.bye();
            }
        }

        @Test
        @DisplayName("RFC 7692 §6.1 so does a compressed one")
        void compressedFragmentsOfOneByteAreLinear() throws Exception {
            byte[] noise = new byte[2 * MANY];
            new Random(13).nextBytes(noise);
            byte[] once = inBytes(Compression.deflate(Arrays.copyOf(noise, MANY)));
            byte[] twice = inBytes(Compression.deflate(noise));
            try (Chat chat = chat(); Raw raw = Raw.open(chat, "/echo", OFFER)) {
                echoed(raw, once, MANY);
                assertLinear(allocated(() -> echoed(raw, once, MANY)),
                        allocated(() -> echoed(raw, twice, 2 * MANY)));
                raw.bye();
            }
        }

        private static byte[] inBytes(byte[] compressed) {
            byte[] all = fragmented(compressed.length, 1);
            all[0] = 0x42;                                              // RSV1, BINARY
            for (int i = 0; i < compressed.length; i++)
                all[7 * i + 6] = (byte) (compressed[i] ^ MASKING_KEY[0]);
            return all;
        }

        @Test
        @DisplayName("§10.4 4 MiB in fragments of 64 bytes arrive (as in Autobahn's case 9.4.1)")
        void fourMebibytesInFragmentsOf64BytesArrive() throws Exception {
            int size = 4 << 20;
            byte[] message = fragmented(size / 64, 64), whole = masked(0x82, new byte[size]);
            try (Chat chat = chat("--max-message=16777216", "--max-queue=33554432");
                    Raw raw = Raw.open(chat, "/echo")) {
                echoed(raw, whole, size);
                long cut = allocated(() -> echoed(raw, message, size));
                long uncut = allocated(() -> echoed(raw, whole, size));
                assertTrue(cut < 4 * uncut, cut + " instead of " + uncut);
                raw.bye();
            }
        }

        /// A new name that is too long costs as much as its bytes do, whatever letters it has.
        private static void assertNickAlike(Raw raw, Function<String, byte[]> frame)
                throws Exception {
            byte[] marks = frame.apply("/nick a" + "\u0315\u0300".repeat(MANY / 2));
            byte[] letters = frame.apply("/nick a" + "\u044f".repeat(MANY));
            assertAsCheap(() -> answered(raw, letters), () -> answered(raw, marks));
            raw.bye();
        }

        private static void answered(Raw raw, byte[] command) throws IOException {
            assertTrue(raw.write(command).line().startsWith(" .... "));
        }

        @Test
        @DisplayName("a name of combining marks costs as much as one of letters")
        void aNameOfCombiningMarksIsLinear() throws Exception {
            try (Chat chat = chat(); Raw raw = Raw.open(chat, "/chat/marks")) {
                assertNickAlike(raw, text -> masked(0x81, utf8(text)));
            }
        }

        @Test
        @DisplayName("a compressed one, too, though it is some hundred bytes")
        void aCompressedNameOfCombiningMarksIsLinear() throws Exception {
            try (Chat chat = chat(); Raw raw = Raw.open(chat, "/chat/marks", OFFER)) {
                assertNickAlike(raw, text -> masked(0xc1, Compression.deflate(utf8(text))));
            }
        }

        @Test
        @DisplayName("the page: a path of combining marks costs as much as one of letters")
        void aPathOfCombiningMarksIsLinear() throws Exception {
            try (Chat chat = chat()) {
                assertAsCheap(() -> refusedPath(chat, "%D1%8F".repeat(3 * MANY)),
                        () -> refusedPath(chat, "%CC%95%CC%80".repeat(3 * MANY / 2)));
            }
        }

        /// There is no such room. If so long a request gets no answer at all, that will do.
        private static void refusedPath(Chat chat, String name) throws IOException {
            try (Raw raw = new Raw(chat.httpPort())) {
                String answer = raw.ascii("GET /chat/a" + name + " HTTP/1.1\r\nHost: localhost\r\n"
                        + "Connection: close\r\n\r\n").readAll();
                assertFalse(answer.startsWith("HTTP/1.1 2"), answer);
            } catch (SocketException refused) {
                return;
            }
        }

        @Test
        @DisplayName("to explain a million control characters costs as much as to explain letters")
        void toExplainControlCharactersIsCheap() throws Exception {
            int size = 500_000;
            byte[] letters = masked(0x81, utf8("x".repeat(size)));
            byte[] controls = masked(0x81, utf8("\u0001".repeat(size)));
            try (Chat chat = chat("--trace"); Raw raw = Raw.open(chat, "/echo")) {
                echoed(raw, letters, size);
                echoed(raw, controls, size);
                long plain = allocated(() -> echoed(raw, letters, size));
                long escaped = allocated(() -> echoed(raw, controls, size));
                assertTrue(escaped < 2 * plain, escaped + " instead of " + plain);
                raw.bye();
            }
        }
    }

    // ---- Fairness: virtual threads have no time slices ----------------------------------------

    @Nested
    @DisplayName("Who floods does not keep the others waiting")
    class Fairness {
        private static final long SPAN = 800_000_000;           // ns of each flood

        /// What a peer can send without end, each some ten thousand frames.
        private static Map<String, byte[]> floods() {
            var floods = new LinkedHashMap<String, byte[]>();
            floods.put("pongs", repeated(masked(0x8a), 10_000));
            floods.put("pings", repeated(masked(0x89), 10_000));
            floods.put("empty texts", repeated(masked(0x81), 10_000));
            floods.put("fragments of one byte", LinearCost.fragmented(10_000, 1));
            floods.put("empty fragments", LinearCost.fragmented(10_000, 0));
            return floods;
        }

        private static byte[] repeated(byte[] one, int times) {
            byte[] all = new byte[times * one.length];
            for (int i = 0; i < all.length; i++) all[i] = one[i % one.length];
            return all;
        }

        /// Peers who send these frames as fast as they can, and read what comes back.
        private static final class Flood implements AutoCloseable {
            private final List<Raw> peers;
            final AtomicLong sent = new AtomicLong();

            Flood(int port, int count, byte[] frames) throws IOException {
                this(open(port, count), frames);
            }

            private static List<Raw> open(int port, int count) throws IOException {
                var peers = new ArrayList<Raw>();
                for (int i = 0; i < count; i++) peers.add(new Raw(port).shakeHands("/echo"));
                return peers;
            }

            Flood(List<Raw> peers, byte[] frames) {
                this.peers = peers;
                for (Raw peer : peers) {
                    daemon(() -> {
                        while (true) {
                            peer.write(frames);
                            sent.addAndGet(frames.length);
                        }
                    });
                    daemon(() -> peer.socket.getInputStream().transferTo(
                            OutputStream.nullOutputStream()));
                }
            }

            private static void daemon(Executable task) {
                Thread.ofPlatform().daemon().start(() -> {
                    try {
                        task.execute();
                    } catch (Throwable closed) {
                        // the flood is over
                    }
                });
            }

            @Override
            public void close() throws IOException {
                for (Raw peer : peers) peer.reset();
            }
        }

        /// The longest time for which an echo was waited for while so much time passed.
        private static long worstWait(Raw innocent) throws IOException {
            long start = System.nanoTime(), worst = 0;
            for (long now = start; now - start < SPAN; ) {
                innocent.text("Hello").line();
                long after = System.nanoTime();
                worst = Math.max(worst, after - now);
                now = after;
            }
            return worst;
        }

        private static void assertFair(int carriers, int peers, String... kinds)
                throws Exception {
            try (Program chat = Program.with(List.of("-XX:ActiveProcessorCount=" + carriers,
                    "-Djdk.virtualThreadScheduler.parallelism=" + carriers))) {
                int port = chat.ready().webSocketPort();
                try (Raw innocent = new Raw(port).shakeHands("/echo")) {
                    worstWait(innocent);
                    long alone = worstWait(innocent);
                    for (String kind : kinds)
                        try (Flood flood = new Flood(port, peers, floods().get(kind))) {
                            long most = alone + SPAN / 4, wait = Long.MAX_VALUE;
                            // Other programs may need the processor for once, but not each time.
                            for (int i = 0; i < 3 && wait > most; i++) wait = worstWait(innocent);
                            assertTrue(flood.sent.get() > 0, "there was no flood");
                            assertTrue(wait <= most, "while there came " + kind + " an echo took "
                                    + wait / 1_000_000 + " ms, alone " + alone / 1_000_000);
                        }
                }
            }
        }

        @Test
        @DisplayName("on two CPUs two peers flood: an echo never takes a good part of that time")
        void twoPeersOnTwoProcessors() throws Exception {
            assertFair(2, 2, floods().keySet().toArray(String[]::new));
        }

        @Test
        @DisplayName("on two CPUs four peers flood: nor then")
        void fourPeersOnTwoProcessors() throws Exception {
            assertFair(2, 4, "pongs", "fragments of one byte");
        }

        @Test
        @DisplayName("on one CPU one peer floods: nor then")
        void onePeerOnOneProcessor() throws Exception {
            assertFair(1, 1, "pongs", "pings", "empty texts");
        }

        @Test
        @DisplayName("deadlines are kept during a flood, and newcomers let in")
        void deadlinesAreKeptDuringAFlood() throws Exception {
            try (Program chat = Program.with(List.of("-XX:ActiveProcessorCount=1",
                    "-Djdk.virtualThreadScheduler.parallelism=1"))) {
                int port = chat.ready().webSocketPort();
                byte[] pongs = floods().get("pongs");
                // He has our Close, and neither answers nor goes.
                try (Raw stays = new Raw(port).shakeHands("/echo").frame(0x83);
                        Flood flood = new Flood(port, 2, pongs)) {
                    assertEquals(0x88, stays.frame().first());
                    new Raw(port).shakeHands("/echo").close();
                    stays.socket.setSoTimeout(2000 * Chat.WebSocket.CLOSE_TIME);
                    stays.assertEnd();
                    eventually(true, () -> isReset(stays));
                    assertTrue(flood.sent.get() > 0, "there was no flood");
                }
            }
        }

        private static boolean isReset(Raw raw) {
            try {
                raw.write((byte) 0);
                return false;
            } catch (IOException reset) {
                return true;
            }
        }
    }

    // ---- One bound over all memory ------------------------------------------------------------

    @Nested
    @DisplayName("All that waits in memory has one bound")
    class MemoryBound {
        /// From one of a few addresses of this machine.
        private static Raw from(int address, int port) throws IOException {
            return new Raw(new Socket("127.0.0.1", port, InetAddress.getByName("127.0.0."
                    + (2 + address)), 0)).shakeHands("/echo");
        }

        private static Program small() throws Exception {
            return Program.with(List.of("-Xmx64m", "-XX:+UseSerialGC"));
        }

        @Test
        @DisplayName("300 hold most of a message each: newcomers are served, then and afterwards")
        void newcomersAreServedThoughManyHoldMuch() throws Exception {
            byte[] most = join(bytes("82 ff 00 00 00 00 00 0f ff ff 00 00 00 00"),
                    new byte[1_000_000]);
            try (Program chat = small()) {
                Program.Ready ready = chat.ready();
                int port = ready.webSocketPort();
                var holders = new ArrayList<Raw>();
                for (int i = 0; i < 300; i++)
                    try {
                        Raw holder = from(i % 7, port);
                        holders.add(holder);
                        holder.write(most);
                        if (i % 20 == 0) assertServes(port, ready.httpPort());
                    } catch (SocketException refused) {
                        // he has been cut off
                    }
                assertServes(port, ready.httpPort());
                assertTrue(holders.stream().anyMatch(MemoryBound::isOpen), "nobody may hold any");
                for (Raw holder : holders) holder.reset();
                for (int i = 0; i < 10; i++) assertServes(port, ready.httpPort());
                assertFalse(chat.err.toString().contains("OutOfMemory"), chat.err::toString);
                assertTrue(chat.process.isAlive());
            }
        }

        private static boolean isOpen(Raw raw) {
            try {
                return raw.in.available() == 0 && raw.frame(0x8a) != null;
            } catch (IOException reset) {
                return false;
            }
        }

        /// A newcomer's echo, and the page.
        private static void assertServes(int port, int pagePort) throws IOException {
            try (Raw raw = new Raw(port).shakeHands("/echo"); Raw page = new Raw(pagePort)) {
                assertEquals("Hello", raw.text("Hello").line());
                raw.bye();
                String head = page.ascii("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").readHead();
                assertTrue(head.startsWith("HTTP/1.1 200"), head);
            }
        }

        /// A fragment that is not the last, and when this returns it is counted.
        private static void holds(Raw raw, int first, int bytes) throws IOException {
            raw.frame(first, new byte[bytes]).assertNothingMore();
        }

        private static boolean isRefused(Raw raw) throws IOException {
            return raw.in.available() > 0;
        }

        /// Whether a message that is held here comes back when it has ended.
        private static boolean isServed(Raw raw) {
            try {
                return raw.frame(0x80).frame().first() == 0x82;
            } catch (IOException refused) {
                return false;
            }
        }

        /// @return how many hold 100 kB each when the one who holds ten times that is refused
        private static int untilTheLargestIsRefused(Program chat, int port) throws Exception {
            var small = new ArrayList<Raw>();
            try (Raw large = from(0, port)) {
                for (int i = 0; i < 10; i++) holds(large, i == 0 ? 2 : 0, 100_000);
                while (!isRefused(large)) {
                    assertTrue(small.size() < 1000, "there is no bound");
                    small.add(from(1 + small.size() % 6, port));
                    holds(small.get(small.size() - 1), 2, 100_000);
                }
                Frame close = large.frame();
                assertEquals(0x88, close.first());
                assertTrue(close.code() == 1009 || close.code() == 1013, close::toString);
                assertTrue(close.payload().length > 2, "the reason is missing");
                // Until the large one had gone, a few more may have had to.
                int served = 0;
                for (Raw raw : small) if (isServed(raw)) served++;
                assertTrue(served > 0.8 * small.size(), served + " of " + small.size());
            } finally {
                for (Raw raw : small) raw.close();
            }
            return small.size();
        }

        @Test
        @DisplayName("beyond the bound the largest is refused first, and what ends is given back")
        void theLargestIsRefusedFirst() throws Exception {
            try (Program chat = small()) {
                int port = chat.ready().webSocketPort();
                int first = untilTheLargestIsRefused(chat, port);
                for (int i = 0; i < 5; i++) untilTheLargestIsRefused(chat, port);
                // Who has just gone may still be counted, but not for long.
                eventually(true, () -> untilTheLargestIsRefused(chat, port) > 0.95 * first);
            }
        }

        /// What may be left of somebody who goes in the middle of it.
        private static List<byte[]> pieces() {
            byte[] noise = new byte[50_000];
            new Random(13).nextBytes(noise);
            byte[] large = new byte[300_000];
            return List.of(masked(0x81, utf8("Hello")), masked(0x02, new byte[5000]),
                    masked(0x00, new byte[70_000]), masked(0x80), masked(0x89, new byte[125]),
                    masked(0xc2, Compression.deflate(noise)), masked(0x82, large),
                    masked(0x42, Compression.deflate(large)), masked(0xc1, noise),
                    masked(0x88, bytes("03 e8")), bytes("82 ff 00 00 00 00 00 01 00 00 00 00 00 00"),
                    Fairness.repeated(masked(0x82), 5000), masked(0x83), utf8("x".repeat(3000)));
        }

        @Test
        @DisplayName("when all have gone, in whatever way, nothing is counted any more")
        void whenAllHaveGoneNothingIsCounted() throws Exception {
            var random = new Random(13);
            List<byte[]> pieces = pieces();
            try (Chat chat = chat("--max-memory=3000000", "--max-queue=400000");
                    var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                var settings = (Chat.WebSocket.Settings) field(Chat.class, "settings").get(chat);
                var all = new ArrayList<Raw>();
                for (int i = 0; i < 300; i++) {
                    var parts = new ArrayList<byte[]>();
                    parts.add(utf8(request(random.nextBoolean() ? "/echo" : "/chat/leak",
                            "Sec-WebSocket-Extensions: permessage-deflate")));
                    for (int n = random.nextInt(8); n > 0; n--)
                        parts.add(pieces.get(random.nextInt(pieces.size())));
                    byte[] whole = join(parts.toArray(byte[][]::new));
                    byte[] some = random.nextBoolean() ? whole
                            : Arrays.copyOf(whole, random.nextInt(whole.length));
                    int end = random.nextInt(3);
                    Raw raw = new Raw(chat.webSocketPort());
                    all.add(raw);
                    executor.submit(() -> {
                        try (raw) {
                            raw.socket.setSoTimeout(500);
                            raw.write(some);
                            if (end > 0) raw.assertNothingMore();
                            if (end == 1) raw.reset();
                        } catch (IOException | AssertionError refused) {
                            // that is another way to go
                        }
                    });
                }
                executor.shutdown();
                executor.awaitTermination(2, TimeUnit.SECONDS);
                for (Raw raw : all) raw.close();                // those who are stuck, too
                eventually(0L, () -> settings.memory.used());
            }
        }

        @Test
        @DisplayName("3,000 halves of a handshake, as long as may be, count, too")
        void halvesOfHandshakesCount() throws Exception {
            byte[] half = utf8(request("/echo", "X: " + "x".repeat(15_000)).stripTrailing());
            try (Program chat = small()) {
                Program.Ready ready = chat.ready();
                int port = ready.webSocketPort();
                var halves = new ArrayList<Raw>();
                for (int i = 0; i < 3000; i++) {
                    Raw raw = new Raw(port);
                    halves.add(raw);
                    try {
                        raw.write(half);
                    } catch (SocketException refused) {
                        // that is right
                    }
                    if (i % 500 == 499) assertServes(port, ready.httpPort());
                }
                for (Raw raw : halves) raw.close();
                assertServes(port, ready.httpPort());
                assertFalse(chat.err.toString().contains("OutOfMemory"), chat.err::toString);
            }
        }

        @ParameterizedTest
        @DisplayName("what waits for those who do not read counts, tiny frames with all they cost")
        @ValueSource(ints = {1_000_000, 0})
        void whatWaitsForSlowReadersCounts(int size) throws Exception {
            byte[] frame = masked(0x82, new byte[size]);
            byte[] frames = Fairness.repeated(frame, size == 0 ? 100_000 : 1);
            try (Program chat = small()) {
                Program.Ready ready = chat.ready();
                int port = ready.webSocketPort();
                var deaf = new ArrayList<Raw>();
                for (int i = 0; i < 40; i++) {
                    Raw raw = from(i % 7, port);
                    deaf.add(raw);
                    Thread.ofPlatform().daemon().start(() -> {
                        try {
                            while (true) raw.write(frames);
                        } catch (IOException cutOff) {
                            // he takes no more
                        }
                    });
                }
                for (int i = 0; i < 30; i++) assertServes(port, ready.httpPort());
                for (Raw raw : deaf) raw.reset();
                for (int i = 0; i < 10; i++) assertServes(port, ready.httpPort());
                assertFalse(chat.err.toString().contains("OutOfMemory"), chat.err::toString);
                assertTrue(chat.process.isAlive());
            }
        }
    }

    // ---- A log that nobody reads --------------------------------------------------------------

    @Nested
    @DisplayName("Standard error that nobody reads stops nothing")
    class UnreadLog {
        /// The chat, with standard error as a pipe which nobody has read so far.
        private static final class Unread implements AutoCloseable {
            final Process process;
            final int port;

            Unread(String... options) throws Exception {
                process = new ProcessBuilder(Program.command(List.of(), List.of(), options))
                        .start();
                Matcher ready = Program.LINE.matcher(process.inputReader().readLine());
                assertTrue(ready.matches());
                port = Integer.parseInt(ready.group(4));
                try {
                    fill();
                } catch (IOException stopped) {
                    close();
                    throw stopped;
                }
            }

            /// More than a pipe holds: each refusal is a line.
            private void fill() throws IOException {
                for (int i = 0; i < 2500; i++)
                    try (Raw raw = new Raw(port)) {
                        raw.ascii("nonsense\r\n\r\n").in.readAllBytes();
                    }
            }

            @Override public void close() { process.destroyForcibly().onExit().join(); }
        }

        private static boolean hasEnded(Raw raw) {
            try {
                return raw.in.read() < 0;
            } catch (IOException reset) {
                return true;
            }
        }

        private static void assertGoesOn(String... options) throws Exception {
            try (Unread chat = new Unread(options);
                    Raw half = new Raw(chat.port).ascii("GET / HTTP/1.1\r\n");
                    Raw ada = new Raw(chat.port).shakeHands("/chat/pipe").assertNothingMore();
                    Raw bob = new Raw(chat.port).shakeHands("/chat/pipe").assertNothingMore()) {
                for (int i = 0; i < 10; i++)
                    try (Raw breaker = new Raw(chat.port).shakeHands("/chat/pipe")) {
                        breaker.hex("83 80").assertClosed(1002);
                        assertTrue(ada.line().endsWith(" has left."));
                        assertTrue(bob.line().endsWith(" has left."));
                    }
                ada.text("hello");
                assertTrue(ada.line().endsWith(": hello"));
                assertTrue(bob.line().endsWith(": hello"));
                eventually(true, () -> hasEnded(half)); // its deadline is kept
            }
        }

        @Test
        @DisplayName("who breaks a rule gets a Close, rooms go on, and deadlines are kept")
        void theChatGoesOn() throws Exception { assertGoesOn(); }

        @Test
        @DisplayName("with --trace, too")
        void theChatGoesOnWithTrace() throws Exception { assertGoesOn("--trace"); }

        @Test
        @DisplayName("who reads too slowly is cut off from a room, which goes on")
        void aRoomGoesOnThoughOneReadsTooSlowly() throws Exception {
            String filler = "x".repeat(50_000);
            try (Unread chat = new Unread("--max-queue=200000", "--no-deflate");
                    Raw slow = new Raw(chat.port).shakeHands("/chat/pipe").assertNothingMore();
                    Raw ada = new Raw(chat.port).shakeHands("/chat/pipe").assertNothingMore()) {
                String name = slow.text("").line().replace(": ", "");
                assertEquals(name + ": ", ada.line());
                boolean left = false;
                for (int i = 0; i < 400; i++) {         // 20 MB: more than sockets hold
                    ada.text(filler);
                    for (String line = ""; !line.endsWith(filler); line = ada.line())
                        left |= line.equals(" .... " + name + " has left.");
                }
                assertTrue(left, "he is still there");
                ada.text("/who");
                assertTrue(ada.line().startsWith(" .... 1 here: "));
            }
        }

        @Test
        @DisplayName("once it is read again, it says how much has not been printed")
        void itSaysHowMuchHasNotBeenPrinted() throws Exception {
            try (Unread chat = new Unread()) {
                var lines = new LinkedBlockingQueue<String>();
                Program.read(chat.process.errorReader(StandardCharsets.UTF_8), lines);
                var some = new ArrayList<String>();
                boolean counted = false;
                while (!counted) {
                    String line = lines.poll(PATIENCE, TimeUnit.SECONDS);
                    assertNotNull(line, () -> "of " + some.size() + " lines none counts the rest");
                    some.add(line);
                    counted = !line.contains("§") && line.matches(".*\\b\\d+\\b.*"
                            + "(lines?|not printed|left out|lost|missing).*");
                }
                int refused = (int) some.stream().filter(line -> line.contains("§4.2.1")).count();
                assertTrue(refused > 100, some.toString());
                try (Raw raw = new Raw(chat.port)) {
                    raw.ascii("nonsense\r\n\r\n").readAll();
                }
                assertTrue(lines.poll(PATIENCE, TimeUnit.SECONDS).contains("§4.2.1"));
            }
        }
    }

    // ---- Cross-site hijacking (RFC 6455 §10.2): no page acts in its reader's name -------------

    @Nested
    @DisplayName("§10.2 Pages of other sites")
    class CrossSite extends Served {
        private static String answer(int port, String request) throws IOException {
            try (Raw raw = new Raw(port)) {
                raw.ascii(request).socket.shutdownOutput();
                return raw.readAll();
            }
        }

        private static void assertRefused(Chat chat, String path, String... headers)
                throws IOException {
            String answer = answer(chat.webSocketPort(), request(path, headers));
            assertTrue(answer.startsWith("HTTP/1.1 403 "), () -> List.of(headers) + ": " + answer);
            assertTrue(answer.contains("--origin"), answer);
        }

        private static void assertTaken(Chat chat, String... headers) throws IOException {
            try (Raw raw = Raw.open(chat, "/echo", headers)) {
                raw.assertNothingMore();
            }
        }

        @ParameterizedTest
        @DisplayName("the own origin has the host as the client has named it, and the page's port")
        @ValueSource(strings = {"localhost", "127.0.0.1", "[::1]"})
        void theOwnOriginHasTheHostAsNamed(String name) throws Exception {
            String own = "http://" + name + ":" + chat.httpPort();
            for (String host : List.of(name, name + ":" + chat.webSocketPort(), name + ":1"))
                assertTaken(chat, "Host: " + host, "Origin: " + own);
            for (String other : List.of("localhost", "127.0.0.1", "[::1]"))
                if (!other.equals(name)) assertRefused(chat, "/", "Host: " + other,
                        "Origin: " + own);
            assertRefused(chat, "/", "Host: " + name, "Origin: http://" + name + ":"
                    + chat.webSocketPort());
            assertRefused(chat, "/", "Host: " + name, "Origin: " + own.replace("http", "https"));
        }

        @ParameterizedTest
        @DisplayName("a page of another site is kept out of every path, and nobody hears of it")
        @ValueSource(strings = {"https://evil.example", "null", "http://localhost.evil:%d",
            "http://evil.localhost:%d", "http://localhost:%d.evil.example", "http://localhost",
            "http://localhost:%d#", "http://evil@localhost:%d", "http://localhost:0%d", "file://"})
        void aPageOfAnotherSiteIsKeptOut(String form) throws Exception {
            String origin = "Origin: " + form.formatted(chat.httpPort());
            String room = "/chat/r" + System.nanoTime();        // nobody is leaving it just now
            try (Raw ada = Raw.open(chat, room, PRESENCE)) {
                ada.line();
                for (String path : List.of("/", "/echo", "/chat", room, "/chat/other"))
                    assertRefused(chat, path, origin, PRESENCE);
                ada.assertNothingMore();
            }
        }

        @Test
        @DisplayName("two Origin headers are one too many, in any order; none is no browser")
        void oneOriginAtMost() throws Exception {
            String own = "Origin: http://localhost:" + chat.httpPort();
            String evil = "Origin: http://evil.example";
            assertRefused(chat, "/", own, evil);
            assertRefused(chat, "/", evil, own);
            assertRefused(chat, "/", own, own);
            assertTaken(chat);
            assertTaken(chat, own);
        }

        @Test
        @DisplayName("--origin lets exactly that origin in, and its host name; * lets all in")
        void originLetsExactlyThatOneIn() throws Exception {
            try (Chat open = chat("--origin=https://chat.example",
                    "--origin=http://b.example:81")) {
                assertTaken(open, "Origin: https://chat.example");
                assertTaken(open, "Origin: http://b.example:81");
                assertTaken(open, "Host: chat.example", "Origin: https://chat.example");
                assertTaken(open, "Host: b.example:81");
                assertTaken(open, "Origin: http://localhost:" + open.httpPort());
                for (String origin : List.of("http://chat.example", "https://chat.example:444",
                        "https://chat.example.evil", "https://evil.chat.example", "null",
                        "https://b.example:81", "http://b.example", "http://b.example:8", "*"))
                    assertRefused(open, "/", "Origin: " + origin);
                assertRefused(open, "/", "Origin: https://chat.example",
                        "Origin: https://chat.example");
                assertRefused(open, "/", "Host: evil.example", "Origin: https://chat.example");
            }
            try (Chat open = chat("--origin=*")) {
                for (String origin : List.of("https://evil.example", "null"))
                    assertTaken(open, "Host: evil.example", "Origin: " + origin);
            }
            for (String bad : List.of("chat.example", "https://", "https://a b", "https://a/",
                    "ftp://a.example", "https://a.example/chat", "", "http://a http://b"))
                assertThrows(IllegalArgumentException.class,
                        () -> new Chat.Options("--origin=" + bad), bad);
        }

        @ParameterizedTest
        @DisplayName("on loopback both ports answer to this machine's own names only: no rebinding")
        @ValueSource(strings = {"evil.example", "evil.example:%d", "localhost.evil:%d",
            "127.0.0.1.evil", "[::2]", "169.254.1.1", "127.0.0.2"})
        void aForeignNameIsRefused(String form) throws Exception {
            String host = form.formatted(chat.httpPort());
            assertRefused(chat, "/", "Host: " + host, "Origin: http://" + host);
            assertRefused(chat, "/", "Host: " + host);
            for (String path : List.of("/", "/chat/room", "/trace", "/nothing")) {
                String page = answer(chat.httpPort(), "GET " + path + " HTTP/1.1\r\nHost: " + host
                        + "\r\nConnection: close\r\n\r\n");
                assertTrue(page.startsWith("HTTP/1.1 403 "), page);
                assertFalse(page.contains("<script"), page);
            }
        }

        @Test
        @DisplayName("a program's own Origin, that of the WebSocket's port, is as good as none")
        void anOriginThatNoPageCanHave() throws Exception {
            int port = chat.webSocketPort();
            for (String name : List.of("localhost", "LOCALHOST", "127.0.0.1", "[::1]"))
                for (String scheme : List.of("http", "https"))
                    assertTaken(chat, "Host: " + name + ":" + port, "Origin: " + scheme + "://"
                            + name + ":" + port);
            // not as itself, not if the port was mapped to another, not under a strange name
            assertRefused(chat, "/", "Host: localhost:" + port, "Origin: http://127.0.0.1:" + port);
            assertRefused(chat, "/", "Host: localhost:9", "Origin: http://localhost:" + port);
            assertRefused(chat, "/", "Host: localhost:9", "Origin: http://localhost:9");
            assertRefused(chat, "/", "Host: localhost:" + port, "Origin: httpx://localhost:" + port);
            assertRefused(chat, "/", "Host: evil.example:" + port, "Origin: http://evil.example:"
                    + port);
            try (Chat wide = chat("--host=0.0.0.0", "--origin=https://chat.example")) {
                port = wide.webSocketPort();
                for (String name : List.of("localhost", "192.0.2.1", "[2001:db8::1]",
                        "chat.example"))
                    assertTaken(wide, "Host: " + name + ":" + port, "Origin: http://" + name + ":"
                            + port);
                assertRefused(wide, "/", "Host: evil.example:" + port,          // rebinding
                        "Origin: http://evil.example:" + port);
            }
        }

        @Test
        @DisplayName("apps, extensions, files, other spellings and *.HOST can be let in, and only they")
        void allThatBrowsersSend() throws Exception {
            for (String[] pair : new String[][] {
                {"https://chat.example:443", "https://chat.example"},
                {"http://CHAT.example:80", "http://chat.example"},
                {"https://b\u00fccher.example", "https://xn--bcher-kva.example"},
                {"capacitor://localhost", "capacitor://localhost"},
                {"tauri://localhost", "tauri://localhost"}, {"file://", "file://"},
                {"chrome-extension://abcdef", "chrome-extension://abcdef"}, {"null", "null"},
                {"https://*.chat.example", "https://a.chat.example"},
                {"https://*.chat.example", "https://a.b.chat.example"}})
                try (Chat open = chat("--origin", pair[0])) {
                    assertTaken(open, "Origin: " + pair[1]);
                    for (String other : List.of("https://evil.example", "https://chat.example:8",
                            "https://evilchat.example", "http://a.chat.example", "app://localhost",
                            "https://a.chat.example.evil", "chrome-extension://abcdeg",
                            "http://localhost", "https://*.chat.example", "file://localhost"))
                        assertRefused(open, "/", "Origin: " + other);
                }
            try (Chat open = chat("--origin=https://*.chat.example")) {
                assertTaken(open, "Host: a.chat.example", "Origin: https://a.chat.example");
                assertRefused(open, "/", "Origin: https://chat.example");
                assertRefused(open, "/", "Host: chat.example");
            }
        }

        @Test
        @DisplayName("localhost. with its dot is this machine, on both ports")
        void aDotAtTheEnd() throws Exception {
            assertTaken(chat, "Host: localhost.", "Origin: http://localhost.:" + chat.httpPort());
            assertTaken(chat, "Host: LocalHost.:1");
            String page = answer(chat.httpPort(), "GET / HTTP/1.1\r\nHost: localhost.\r\n"
                    + "Connection: close\r\n\r\n");
            assertTrue(page.startsWith("HTTP/1.1 200 "), page);
        }

        @Test
        @DisplayName("--host in capitals, or IPv4 in the clothes of IPv6, is known by its name")
        void hostsInOtherSpellings() throws Exception {
            for (String[] pair : new String[][] {{"LocalHost", "localhost"}, {"127.0.0.2",
                "127.0.0.2"}, {"::ffff:127.0.0.1", "127.0.0.1"}, {"::ffff:127.0.0.1",
                "[::ffff:7f00:1]"}})
                try (Chat named = chat("--host=" + pair[0]); Raw raw = new Raw(new Socket(
                        InetAddress.getByName(pair[0]), named.webSocketPort()))) {
                    raw.shakeHands("/echo", "Host: " + pair[1], "Origin: http://" + pair[1] + ":"
                            + named.httpPort()).assertNothingMore();
                }
        }

        @Test
        @DisplayName("a health check (HTTP/1.0 without Host) gets the page: it is no browser")
        void aHealthCheck() throws Exception {
            for (String request : List.of("GET / HTTP/1.0\r\n\r\n", "HEAD / HTTP/1.0\r\n\r\n"))
                assertTrue(answer(chat.httpPort(), request).startsWith("HTTP/1.1 200 "), request);
            String options = answer(chat.httpPort(), "OPTIONS / HTTP/1.0\r\n\r\n");
            assertTrue(options.startsWith("HTTP/1.1 204 "), options);
            for (String request : List.of("GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n",
                    "GET / HTTP/1.0\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\n"
                    + "Connection: close\r\n\r\n"))
                assertTrue(answer(chat.httpPort(), request).startsWith("HTTP/1.1 40"), request);
        }

        @Test
        @DisplayName("bound to every address it takes any name, but the origin must have the same")
        void boundWideTheOriginMustHaveTheHost() throws Exception {
            try (Chat wide = chat("--host=0.0.0.0")) {
                String port = ":" + wide.httpPort();
                assertTaken(wide, "Host: box.local:5", "Origin: http://box.local" + port);
                assertTaken(wide, "Host: 10.0.0.7", "Origin: http://10.0.0.7" + port);
                assertRefused(wide, "/", "Host: box.local", "Origin: http://evil.example" + port);
                assertRefused(wide, "/", "Host: box.local", "Origin: null");
            }
        }
    }

    // ---- The terminal: nothing that a client has sent can steer it ----------------------------

    @Nested
    @DisplayName("What is written on the terminal")
    class LogEscaping {
        /// Colours, moves, a title, 8-bit control sequences, line breaks of all kinds, bidi.
        static final String EVIL = "\u001b[2J\u001b]0;title\u0007\u009b31m\r\n99:99 FORGED"
                + "\u0085\u2028\u2029\u000b\f\b\t\u0000\u007f\u202e\u2066\u200f\ufeff\u00e9";

        interface Deed { void on(Chat chat) throws Exception; }

        /// All that a server writes on standard error while something is done to it.
        private static String written(Deed deed, String... options) throws Exception {
            try (var stderr = new Stderr()) {
                try (Chat chat = chat(options)) {
                    deed.on(chat);
                }
                return stderr.text();
            }
        }

        private static void assertHarmless(String written) {
            Matcher evil = Pattern.compile("[\\p{C}\\p{Zl}\\p{Zp}&&[^\n]]").matcher(written);
            assertFalse(evil.find(), () -> "U+" + Integer.toHexString(evil.group().codePointAt(0))
                    + " in " + written.substring(Math.max(0, evil.start() - 100), evil.end()));
            for (String line : written.split("\n"))
                assertFalse(line.startsWith("99:99"), written);
        }

        private static void send(Chat chat, byte... request) throws IOException {
            try (Raw raw = new Raw(chat.webSocketPort())) {
                raw.write(request).socket.shutdownOutput();
                raw.readAll();
            }
        }

        private static void handshakes(Chat chat) throws IOException {
            for (Charset charset : List.of(StandardCharsets.UTF_8, StandardCharsets.ISO_8859_1))
                for (String evil : List.of(EVIL, EVIL.replace("\r\n", "\n"), EVIL.replaceAll(
                        "[\\x00-\\x1f\\x7f]", ""), "x\r\n99:99 FORGED: x")) {
                    for (String path : List.of("/" + evil, "/chat/" + evil, "/?" + evil))
                        send(chat, request(path).getBytes(charset));
                    for (String name : List.of("Origin", "Host", "Upgrade", "Cookie", evil,
                            "Sec-WebSocket-Key", "Sec-WebSocket-Protocol", "User-Agent",
                            "Sec-WebSocket-Extensions", "Sec-WebSocket-Version"))
                        send(chat, request("/chat", name + ": " + evil).getBytes(charset));
                    send(chat, evil.getBytes(charset));
                }
        }

        private static void messages(Chat chat) throws IOException {
            for (String protocol : List.of("", "presence"))
                for (String extension : List.of("", "permessage-deflate"))
                    try (Raw raw = Raw.open(chat, "/chat/room", "Sec-WebSocket-Extensions: "
                            + extension, "Sec-WebSocket-Protocol: " + protocol)) {
                        for (String evil : List.of(EVIL, "\n99:99 FORGED\n", "\u001b[1mx"))
                            raw.text(evil).text("/nick " + evil).text("/" + evil)
                                    .frame(0x89, utf8(evil)).frame(0x01, utf8(evil)).frame(0x00)
                                    .frame(0x80, utf8(evil));
                        raw.frame(0x88, join(bytes("03 e8"), utf8(EVIL))).readAll();
                    }
            for (String bad : List.of("83", "c1", "01"))
                try (Raw raw = Raw.open(chat, "/echo")) {
                    raw.frame(bytes(bad)[0], utf8(EVIL)).frame(0x82, utf8(EVIL)).readAll();
                }
        }

        @ParameterizedTest
        @DisplayName("a client's bytes neither break a line nor become a control character")
        @ValueSource(booleans = {false, true})
        void nobodySteersTheTerminal(boolean trace) throws Exception {
            String[] options = trace ? new String[] {"--trace"} : new String[0];
            String log = written(chat -> {
                handshakes(chat);
                messages(chat);
            }, options);
            assertHarmless(log);
            assertTrue(log.contains("1002") && log.contains("400"), "nothing was written: " + log);
            if (trace) assertTrue(log.contains("FORGED"), "what was said is not shown: " + log);
        }

        @Test
        @DisplayName("what a handler throws is one line, whatever its message holds")
        void anExceptionIsOneLine() throws Exception {
            assertHarmless(written(chat -> Chat.log("#1 " + new IOException(EVIL))));
            assertEquals(1, written(chat -> Chat.log(EVIL)).lines().count());
        }

        @Test
        @DisplayName("nor can they forge an event of /trace")
        void nobodyForgesAnEvent() throws Exception {
            var events = new StringBuffer();
            written(chat -> {
                try (Raw watcher = new Raw(chat.httpPort())) {
                    watcher.ascii("GET /trace HTTP/1.1\r\nHost: localhost:" + chat.httpPort()
                            + "\r\nConnection: keep-alive\r\n\r\n").readHead();
                    eventually(true, () -> {        // from the first that is heard on, all are
                        Raw.open(chat, "/echo").close();
                        return watcher.in.available() > 0;
                    });
                    Thread reader = Thread.startVirtualThread(() -> {
                        try {
                            for (int next; (next = watcher.in.read()) >= 0; )
                                events.append((char) next);
                        } catch (IOException end) {
                            // the test looks at what has come
                        }
                    });
                    messages(chat);
                    handshakes(chat);
                    eventually(true, () -> {
                        Raw.open(chat, "/echo?the-end").close();
                        return events.indexOf("the-end") > 0;
                    });
                    watcher.socket.shutdownInput();
                    reader.join();
                }
            }, "--trace");
            for (String line : events.toString().split("\n")) {
                if (line.matches("[0-9a-f]+\r")) continue;             // a chunk's length
                String text = line.replaceFirst("\r$", "");
                assertTrue(text.isEmpty() || text.startsWith("data: ") || text.equals(":"), line);
                assertFalse(text.matches(".*[\\x00-\\x1f\\x7f&&[^\t]].*"), line);
            }
            assertTrue(events.indexOf("FORGED") > 0, "what was said is not shown");
        }
    }

    // ---- TLS: https and wss (RFC 6455 §10.6) --------------------------------------------------

    @Nested
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    @DisplayName("§10.6 TLS")
    class Tls {
        private static final String PASSWORD = "not-for-the-command-line";
        private Path folder;
        private Program chat;
        private int httpsPort, wssPort;
        private SSLContext trusting;

        @BeforeAll
        void start() throws Exception {
            folder = temporary();
            makeKeys(keys(), PASSWORD, "san=dns:localhost,ip:127.0.0.1");
            chat = Program.under(List.of("env", "CHAT_KEYSTORE_PASSWORD=" + PASSWORD), "--keystore",
                    keys());
            Program.Ready ready = chat.ready();
            assertTrue(ready.page().startsWith("https:") && ready.webSockets().startsWith("wss:"),
                    ready::toString);
            httpsPort = ready.httpPort();
            wssPort = ready.webSocketPort();

            var keys = KeyStore.getInstance(new File(keys()), PASSWORD.toCharArray());
            var trusted = KeyStore.getInstance("PKCS12");
            trusted.load(null, null);
            trusted.setCertificateEntry("chat", keys.getCertificate("chat"));
            var trust = TrustManagerFactory.getInstance("PKIX");
            trust.init(trusted);
            trusting = SSLContext.getInstance("TLS");
            trusting.init(null, trust.getTrustManagers(), null);
        }

        @AfterAll void stop() { chat.close(); }

        private String keys() { return folder.resolve("keys").toString(); }

        private Raw secure(String... versions) throws IOException {
            var socket = (SSLSocket) trusting.getSocketFactory().createSocket("localhost", wssPort);
            if (versions.length > 0) socket.setEnabledProtocols(versions);
            return new Raw(socket);
        }

        @Test
        @DisplayName("--keystore makes the page https, and it goes on to wss")
        void thePageIsHttps() throws Exception {
            var client = HttpClient.newBuilder().sslContext(trusting).build();
            var address = URI.create("https://localhost:" + httpsPort + "/chat/room");
            var page = client.send(HttpRequest.newBuilder(address).build(),
                    HttpResponse.BodyHandlers.ofString());
            assertEquals(200, page.statusCode());
            assertTrue(page.body().contains("<script"), page.body());
            assertTrue(page.headers().firstValue("Content-Security-Policy").orElse("").contains(
                    " wss://*:" + wssPort + ";"), page.headers().toString());
        }

        @Test
        @DisplayName("--keystore makes the socket wss, for an independent client too")
        void theSocketIsWss() throws Exception {
            var heard = new CompletableFuture<String>();
            String said = "€".repeat(300_000);
            var socket = HttpClient.newBuilder().sslContext(trusting).build().newWebSocketBuilder()
                    .buildAsync(URI.create("wss://localhost:" + wssPort + "/echo"),
                    new WebSocket.Listener() {
                private final StringBuilder text = new StringBuilder();

                @Override
                public CompletionStage<?> onText(WebSocket from, CharSequence part, boolean last) {
                    text.append(part);
                    if (last) heard.complete(text.toString());
                    from.request(1);
                    return null;
                }
            }).get(PATIENCE, TimeUnit.SECONDS);
            socket.sendText(said, true).get(PATIENCE, TimeUnit.SECONDS);
            assertEquals(said, heard.get(PATIENCE, TimeUnit.SECONDS));
            socket.abort();
        }

        @Test
        @DisplayName("the own origin is https now")
        void theOwnOriginIsHttps() throws Exception {
            try (Raw raw = secure()) {
                raw.shakeHands("/chat", "Origin: https://localhost:" + httpsPort);
                raw.bye();
            }
            try (Raw raw = secure()) {
                String answer = raw.ascii(request("/", "Origin: http://localhost:" + httpsPort))
                        .readHead();
                assertTrue(answer.startsWith("HTTP/1.1 403 "), answer);
            }
        }

        @ParameterizedTest
        @DisplayName("TLS 1.2 and 1.3 are spoken")
        @ValueSource(strings = {"TLSv1.2", "TLSv1.3"})
        void newVersionsAreSpoken(String version) throws Exception {
            try (Raw raw = secure(version)) {
                raw.shakeHands("/echo").text("Hello");
                assertEquals("81 05 48 65 6c 6c 6f", raw.readHex(7));
                assertEquals(version, ((SSLSocket) raw.socket).getSession().getProtocol());
                raw.bye();
            }
        }

        @ParameterizedTest
        @DisplayName("SSL 3, TLS 1.0 and 1.1 are refused at both ports: alert protocol_version")
        @ValueSource(strings = {"03 00", "03 01", "03 02"})
        void oldVersionsAreRefused(String version) throws Exception {
            byte[] body = join(bytes(version), new byte[32], bytes("00"),
                    bytes("00 04 c0 09 c0 0a"), bytes("01 00"),         // ECDHE, ECDSA, AES, SHA-1
                    bytes("00 00"), bytes("00 0a 00 04 00 02 00 17"),   // the curve P-256
                    bytes("00 0b 00 02 01 00"), bytes("ff 01 00 01 00"));
            ByteBuffer.wrap(body).putShort(43, (short) (body.length - 45));
            byte[] hello = join(bytes("01 00 %04x".formatted(body.length)), body);
            byte[] wire = join(bytes("16 03 01 %04x".formatted(hello.length)), hello);
            for (int port : new int[] {wssPort, httpsPort})
                try (Raw raw = new Raw(port)) {
                    raw.write(wire).socket.shutdownOutput();
                    byte[] answer = raw.in.readAllBytes();
                    // The JDK's server of https sends its alerts since some version after 21.
                    if (port == httpsPort && Runtime.version().feature() < 25
                            && answer.length == 0) continue;
                    assertTrue(answer.length >= 7 && answer[0] == 0x15, "no alert: " + hex(answer));
                    assertEquals("02 46", hex(answer[5], answer[6]), "at the port of "
                            + (port == wssPort ? "wss" : "https"));
                }
        }

        @Test
        @DisplayName("whoever speaks without TLS gets no HTTP, and disturbs nobody")
        void plainBytesGetNoAnswer() throws Exception {
            try (Raw ada = secure()) {
                ada.shakeHands("/echo");
                for (int port : new int[] {wssPort, httpsPort})
                    for (byte[] bytes : List.of(utf8(request("/echo")), new byte[1000], bytes("16"),
                            bytes("16 03 01 ff ff"), bytes("16 03 01 00 00"), bytes("80 2e 01 03"),
                            bytes("15 03 03 00 02 01 00"), bytes("14 03 03 00 01 01")))
                        try (Raw raw = new Raw(port)) {
                            raw.write(bytes).socket.shutdownOutput();
                            assertFalse(raw.readAll().contains("HTTP"));
                        } catch (SocketException reset) {
                            continue;                       // this is no answer either
                        }
                assertEquals("Hello", ada.text("Hello").line());
                ada.bye();
            }
        }

        @Test
        @DisplayName("who comes with TLS to a port without it is told so, in the log too")
        void tlsAtAPlainPort() throws Exception {
            try (Program plain = Program.chat()) {
                int port = plain.ready().webSocketPort();
                try (Raw raw = new Raw(port)) {
                    raw.write(bytes("16 03 01 00 05 01 00 00 01 03"));  // no line end, and no FIN
                    String answer = raw.readAll();
                    assertTrue(answer.startsWith("HTTP/1.1 400 ") && answer.contains("this is TLS"),
                            answer);
                }
                String line = plain.next(plain.err);
                assertTrue(line.contains("this is TLS"), line);
            }
        }

        @Test
        @DisplayName("eight who flood, each frame in a record of its own, keep nobody waiting")
        void whoFloodsKeepsNobodyWaiting() throws Exception {
            try (Program own = new Program(FOLDER, Program.command(List.of("env",
                    "CHAT_KEYSTORE_PASSWORD=" + PASSWORD), List.of("-XX:ActiveProcessorCount=1",
                    "-Djdk.virtualThreadScheduler.parallelism=1"), "--keystore", keys()))) {
                int port = own.ready().webSocketPort();
                var peers = new ArrayList<Raw>();
                for (int i = 0; i < 9; i++) peers.add(new Raw(trusting.getSocketFactory()
                        .createSocket("localhost", port)).shakeHands("/echo"));
                Raw innocent = peers.remove(0);
                try (var flood = new Fairness.Flood(peers, masked(0x8a))) {
                    eventually(true, () -> flood.sent.get() > 100_000);
                    for (int i = 0; i < 10; i++)
                        assertEquals("Hello", innocent.text("Hello").line());
                    own.process.destroyForcibly();      // else each peer waits to say goodbye
                }
            }
        }

        @Test
        @DisplayName("a reader who stops is cut off though he has TLS, and the room is told")
        void aSlowReaderIsCutOff() throws Exception {
            try (Raw slow = secure(); Raw ada = secure()) {
                slow.socket.setReceiveBufferSize(4096);
                String name = slow.shakeHands("/chat/slow").text("").line().replace(": ", "");
                ada.shakeHands("/chat/slow").assertNothingMore();
                String line = "";
                for (int i = 0; i < 60 && !line.startsWith(" .... "); i++) {
                    byte[] random = new byte[375_000];               // which can't be compressed
                    new Random(i).nextBytes(random);
                    ada.text(Base64.getEncoder().encodeToString(random));
                    line = ada.line();
                }
                assertEquals(" .... " + name + " has left.", line);
                ada.line();
                ada.bye();
            }
        }

        @Test
        @DisplayName("keys that no browser would take are told in one line, and nothing starts")
        void keysThatCanNotServe() throws Exception {
            var certificates = KeyStore.getInstance("PKCS12");
            certificates.load(null, null);
            certificates.setCertificateEntry("chat", KeyStore.getInstance(new File(keys()),
                    PASSWORD.toCharArray()).getCertificate("chat"));
            Path noKey = folder.resolve("no-key"), expired = folder.resolve("expired");
            try (var out = Files.newOutputStream(noKey)) {
                certificates.store(out, PASSWORD.toCharArray());
            }
            makeKeys(expired.toString(), PASSWORD, "san=dns:localhost", "-startdate", "-3d",
                    "-validity", "1");
            for (Path file : List.of(noKey, expired))
                try (Program program = Program.under(List.of("env", "CHAT_KEYSTORE_PASSWORD="
                        + PASSWORD), "--keystore", file.toString())) {
                    assertEquals("1 []", program.exit() + " " + program.out);
                    assertEquals(1, program.err.size(), program.err::toString);
                    String why = program.err.element();
                    assertTrue(why.contains("--keystore " + file), why);
                    assertTrue(why.contains(file == noKey ? "private key" : "is valid from"), why);
                }
        }

        @Test
        @DisplayName("a wrong password or file is told in a line that names where it comes from")
        void aWrongPasswordIsTold() throws Exception {
            for (String file : List.of(keys(), folder + "/nothing", "/dev/null"))
                try (Program program = Program.under(List.of("env", "CHAT_KEYSTORE_PASSWORD=wr0ng"),
                        "--keystore", file)) {
                    assertEquals(2, program.exit());
                    assertTrue(program.out.isEmpty(), program.out::toString);
                    String why = program.err.element();
                    assertTrue(why.contains("--keystore") && why.contains("CHAT_KEYSTORE_PASSWORD")
                            && why.contains(file), why);
                    assertFalse(program.err.toString().contains("wr0ng"), program.err::toString);
                }
        }
    }

    // ---- Stopping and starting: nothing is left behind ----------------------------------------

    @Nested
    @DisplayName("Stopping")
    class Stopping {
        private static Raw guest(int port, String path) throws IOException {
            Raw raw = new Raw(port).shakeHands(path);
            raw.assertNothingMore();
            return raw;
        }

        private static void signal(Program program, String name) throws Exception {
            assertEquals(0, new ProcessBuilder("kill", "-" + name, "" + program.process.pid())
                    .start().waitFor());
        }

        /// A JVM leaves INT ignored if it was started so, as a shell's jobs in the background are.
        private static boolean takesInt() throws IOException {
            Path status = Path.of("/proc/self/status");
            if (!Files.exists(status)) return false;
            return Files.readAllLines(status).stream().filter(line -> line.startsWith("SigIgn:"))
                    .noneMatch(line -> new java.math.BigInteger(line.substring(7).strip(), 16)
                    .testBit(1));
        }

        @ParameterizedTest
        @DisplayName("at TERM (143) and INT (130) everyone gets 1001, and the program ends at once")
        @CsvSource({"TERM, 143", "INT, 130"})
        void aSignalStopsIt(String signal, int status) throws Exception {
            assumeTrue(!signal.equals("INT") || takesInt(), "INT is ignored here");
            try (Program program = Program.chat()) {
                int port = program.ready().webSocketPort();
                List<Raw> all = List.of(guest(port, "/echo"), guest(port, "/chat/a"),
                        guest(port, "/chat/a"), guest(port, "/"));
                try (Raw halfway = new Raw(port)) {
                    halfway.ascii("GET / HTTP/1.1\r\n");
                    signal(program, signal);
                    for (Raw raw : all) {
                        Frame last = raw.frame();
                        while (last.first() == 0x81) last = raw.frame();     // someone has left
                        assertEquals(1001, last.code(), last::toString);
                        assertTrue(last.toString().contains("§7.4.1"), last.toString());
                        raw.frame(0x88, bytes("03 e9")).assertEnd();
                        raw.close();
                    }
                    assertEquals(status, program.exit());
                    assertTrue(program.out.isEmpty(), "more than a line: " + program.out);
                    assertThrows(IOException.class, () -> new Raw(port).close());
                }
            }
        }

        @ParameterizedTest
        @DisplayName("it waits for who doesn't answer, but not beyond a second signal")
        @ValueSource(strings = {"TERM", "INT"})
        void aSecondSignalIsImmediate(String second) throws Exception {
            assumeTrue(!second.equals("INT") || takesInt(), "INT is ignored here");
            // A machine may be so slow for once that the time is over before the second signal.
            for (int attempt = 1; ; attempt++)
                try (Program program = Program.chat()) {
                    int port = program.ready().webSocketPort();
                    try (Raw ada = guest(port, "/chat")) {
                        signal(program, "TERM");
                        assertEquals(1001, ada.frame().code());
                        long first = System.nanoTime();
                        assertTrue(program.process.isAlive());
                        signal(program, second);
                        int status = program.exit();
                        assertTrue(status == 130 || status == 143, "exit status " + status);
                        if (System.nanoTime() - first < Chat.WebSocket.CLOSE_TIME * 500_000_000L)
                            return;
                        assertTrue(attempt < 3, "the second signal doesn't hasten it");
                    }
                }
        }

        @Test
        @DisplayName("one signal is enough, though somebody never answers")
        void whoDoesNotAnswerIsWaitedForAWhile() throws Exception {
            try (Program program = Program.chat()) {
                int port = program.ready().webSocketPort();
                try (Raw ada = guest(port, "/chat"); Raw bob = guest(port, "/chat")) {
                    signal(program, "TERM");
                    assertEquals(1001, ada.frame().code());
                    assertEquals(1001, bob.frame().code());
                    for (int i = 0; i < 100; i++) ada.text("I don't care");
                    assertEquals(143, program.exit());
                }
            }
        }

        @Test
        @DisplayName("a port in use: exit 1 and one line with the port; nothing is left behind")
        void aPortInUseIsTold() throws Exception {
            try (var taken = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
                String port = "" + taken.getLocalPort();
                for (String option : List.of("--http-port", "--ws-port")) {
                    String other = option.equals("--ws-port") ? "--http-port" : "--ws-port";
                    try (Program program = Program.chat(option, port, other, "0")) {
                        assertEquals(1, program.exit());
                        assertTrue(program.out.isEmpty(), program.out::toString);
                        assertEquals(1, program.err.size(), program.err::toString);
                        assertTrue(program.err.element().matches(".*\\b" + port + "\\b.*"),
                                program.err::toString);
                    }
                }
                eventually(0, () -> serverThreads().size());
                int files = openFiles();
                int free = freePort();
                for (int i = 0; i < 10; i++) {
                    var chat = new Chat(new Chat.Options("--http-port=" + free,
                            "--ws-port=" + port));
                    assertTrue(assertThrows(IOException.class, chat::start).getMessage()
                            .contains(port));
                    new ServerSocket(free, 50, InetAddress.getLoopbackAddress()).close();
                }
                assertTrue(openFiles() <= files, files + " files were open, now " + openFiles());
                eventually(0, () -> serverThreads().size());
            }
        }

        @Test
        @DisplayName("started and stopped 20 times: no thread, file descriptor or port is left")
        void startedAndStopped20Times() throws Exception {
            int httpPort = freePort(), wsPort = freePort(), files = 0;
            for (int i = 0; i < 22; i++) {
                String[] ports = {"--http-port=" + httpPort, "--ws-port=" + wsPort, "--trace"};
                Chat chat = new Chat(new Chat.Options(ports)).start();    // at once, on the same
                httpPort = chat.httpPort();
                wsPort = chat.webSocketPort();
                var all = new ArrayList<Raw>();
                for (String path : List.of("/echo", "/chat", "/chat", "/chat/other"))
                    all.add(guest(wsPort, path));
                all.add(new Raw(wsPort).ascii("GET / HTTP/1.1\r\nHost: loc"));
                all.add(new Raw(wsPort));
                String host = " HTTP/1.1\r\nHost: localhost:" + httpPort
                        + "\r\nConnection: keep-alive\r\n\r\n";
                for (String request : List.of("GET /" + host, "GET /trace" + host, "GET /", ""))
                    all.add(new Raw(httpPort).ascii(request));
                all.get(7).readHead();
                var farewells = all.stream().limit(4).map(raw -> new FutureTask<>(() -> {
                    Frame last = raw.frame();
                    while (last.first() == 0x81) last = raw.frame();
                    raw.frame(0x88, bytes("03 e9")).assertEnd();
                    raw.close();
                    return last.code();
                })).toList();
                farewells.forEach(Thread::startVirtualThread);
                chat.close();
                for (var farewell : farewells) assertEquals(1001, farewell.get());
                for (Raw raw : all) raw.close();
                if (i == 1) {                                   // after what is opened but once
                    eventually(0, () -> serverThreads().size());
                    files = openFiles();
                }
            }
            eventually(0, () -> serverThreads().size());
            int before = files;
            try {
                eventually(true, () -> openFiles() < before + 10);  // one each time: 20
            } catch (AssertionError more) {
                var open = new ArrayList<String>();
                for (File file : new File("/proc/self/fd").listFiles())
                    open.add(file.getName() + " " + file.getCanonicalPath());
                fail(before + " before, now " + open, more);
            }
            for (int port : new int[] {httpPort, wsPort})
                new ServerSocket(port, 50, InetAddress.getLoopbackAddress()).close();
        }

        @Test
        @DisplayName("who connects at the moment of the stop is not forgotten")
        void whoComesAtTheLastMomentIsNotForgotten() throws Exception {
            var refusals = new ConcurrentLinkedQueue<String>();
            for (int i = 0; i < 50; i++)
                try (var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                    Chat chat = chat();
                    int port = chat.webSocketPort();
                    var visits = new ConcurrentLinkedQueue<Future<?>>();
                    var coming = executor.submit(() -> {
                        while (true) {
                            Raw raw = new Raw(port);            // until that is refused
                            visits.add(executor.submit(() -> visit(raw, refusals)));
                        }
                    });
                    eventually(true, () -> visits.size() > 20);
                    chat.close();
                    assertThrows(ExecutionException.class, coming::get);
                    for (var visit : visits) visit.get();
                }
            eventually(0, () -> serverThreads().size());
            assertFalse(refusals.isEmpty(), "nobody was refused");
            for (String refusal : refusals)
                assertTrue(refusal.contains("the server stops"), refusal);
        }

        /// Stays until the server ends it.
        private static Void visit(Raw raw, Queue<String> refusals) throws IOException {
            try (raw) {
                String head = raw.ascii(request("/chat")).readHead();
                if (head.startsWith("HTTP/1.1 503 ")) refusals.add(raw.readAll());
                while (raw.frame().first() == 0x81) continue;
                raw.frame(0x88, bytes("03 e9")).assertEnd();
            } catch (SocketTimeoutException open) {
                fail("a connection outlives the server");
            } catch (SocketException | AssertionError end) {
                return null;                                    // before or in the handshake
            }
            return null;
        }

        @Test
        @DisplayName("to close twice, or before the start, does no harm")
        void toCloseTwiceDoesNoHarm() throws Exception {
            int files = 0;
            for (int i = 0; i < 12; i++) {
                new Chat(new Chat.Options()).close();
                Chat chat = chat();
                chat.close();
                chat.close();
                if (i == 1) files = openFiles();
            }
            int before = files;
            eventually(true, () -> openFiles() <= before);
            eventually(0, () -> serverThreads().size());
        }
    }

    // ---- Fuzzing: whatever comes, the server stays itself -------------------------------------

    @Nested
    @DisplayName("Fuzzing")
    class Fuzzing {
        static final int SESSIONS = Integer.getInteger("fuzz.sessions", 4000), AT_A_TIME = 8;
        /// To repeat a run that failed: -Dfuzz.seed=…
        static final long SEED = Long.getLong("fuzz.seed", System.nanoTime());

        @Test
        @DisplayName("thousands of random sessions later all is as before")
        void thousandsOfRandomSessions() throws Exception {
            eventually(0, () -> serverThreads().size());
            try (var stderr = new Stderr(); Chat chat = chat("--max-message=100000", "--trace")) {
                session(chat, 0);                                   // opens what is opened once
                page(chat, new Random(SEED));
                eventually(true, () -> isEmpty(rooms(chat)));
                int files = openFiles(), threads = serverThreads().size();
                var next = new AtomicInteger();
                try (var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                    var all = new ArrayList<Future<?>>();
                    for (int i = 0; i < AT_A_TIME; i++) all.add(executor.submit(() -> {
                        for (int n; (n = next.incrementAndGet()) < SESSIONS; ) session(chat, n);
                        return null;
                    }));
                    for (var each : all) each.get();
                }
                eventually(true, () -> isEmpty(rooms(chat)));
                eventually(true, () -> openFiles() <= files);
                eventually(true, () -> serverThreads().size() <= threads + 1);  // 1: the watcher
                try (Raw raw = Raw.open(chat, "/echo")) {
                    assertEquals("€", raw.text("€").line());
                    raw.bye();
                }
                page(chat, new Random(SEED));
                String bug = "java\\.lang\\.|java\\.util\\.|Exception in thread|refused with 1011";
                for (String line : stderr.text().split("\n"))
                    assertFalse(Pattern.compile(bug).matcher(line).find(), line);
            } catch (Throwable failure) {
                throw new AssertionError("it happens again with -Dfuzz.seed=" + SEED, failure);
            }
        }

        /// One connection: a handshake, frames, and an end, each of them right or wrong at random.
        private static void session(Chat chat, int number) throws IOException {
            var random = new Random(SEED + number);
            boolean deflate = random.nextBoolean();
            byte[] hello = utf8(request(pick(random, "/echo", "/chat/fuzz", "/", "/echo?x"), deflate
                    ? "Sec-WebSocket-Extensions: permessage-deflate" : "Cookie: fuzz",
                    random.nextBoolean() ? PRESENCE : "Accept: x"));
            boolean mutated = random.nextInt(4) == 0;
            if (mutated) hello = mutate(random, hello);
            var frames = new ByteArrayOutputStream();
            for (int i = random.nextInt(12); i > 0; i--) frames.writeBytes(frame(random, deflate));
            byte[] rest = frames.toByteArray();
            if (random.nextInt(4) == 0) rest = mutate(random, rest);
            byte[] all = join(hello, rest);
            if (random.nextInt(4) == 0) all = Arrays.copyOf(all, random.nextInt(all.length));

            try (Raw raw = new Raw(chat.webSocketPort())) {
                boolean pieces = random.nextInt(4) == 0;
                for (int at = 0, count; at < all.length; at += count) {
                    count = pieces ? 1 + random.nextInt(all.length - at) : all.length;
                    raw.write(Arrays.copyOfRange(all, at, Math.min(all.length, at + count)));
                }
                int end = random.nextInt(5);
                if (end == 0) raw.reset();
                else if (end == 1) raw.socket.close();
                else {
                    raw.socket.shutdownOutput();
                    check(raw.in.readAllBytes());
                }
            } catch (SocketException reset) {
                return;                         // by the server, when all has not been read
            }
        }

        /// What the server sends is HTTP or well-formed frames, whatever it gets.
        private static void check(byte[] answer) throws IOException {
            String text = new String(answer, StandardCharsets.ISO_8859_1);
            if (!text.startsWith("HTTP/1.1 101 ")) {
                assertTrue(text.isEmpty() || text.matches("(?s)HTTP/1[.]1 (4\\d\\d|503) .*"), text);
                return;
            }
            var in = new DataInputStream(new ByteArrayInputStream(answer));
            in.skipNBytes(text.indexOf("\r\n\r\n") + 4);
            for (boolean closed = false; in.available() > 0; ) {
                assertFalse(closed, "bytes after a Close");
                int first = in.readUnsignedByte(), form = in.readUnsignedByte();
                assertTrue(Set.of(0x81, 0x82, 0xc1, 0xc2, 0x88, 0x8a).contains(first), "" + first);
                long length = form == 126 ? in.readUnsignedShort() : form == 127 ? in.readLong()
                        : form;
                assertTrue(form < 128 && length <= 200_000, form + ", " + length);
                byte[] payload = in.readNBytes((int) length);
                assertEquals(length, payload.length, "cut off in a frame");
                closed = first == 0x88;
                if (closed) assertNotEquals(1011, new Frame(first, payload).code());
                if (first == 0x81) new Frame(first, payload).text();        // UTF-8, or it throws
            }
        }

        private static byte[] frame(Random random, boolean deflate) {
            byte[] payload = new byte[pick(random, 0, 1, 2, 5, 125, 126, 200, 5000, 70_000)];
            boolean compressed = deflate && random.nextInt(3) == 0;
            switch (random.nextInt(3)) {
                case 0 -> random.nextBytes(payload);
                case 1 -> Arrays.fill(payload, (byte) ('a' + random.nextInt(26)));
                default -> {
                    byte[] text = utf8("ä€😀\r\n/nick x //who ".repeat(payload.length / 20 + 1));
                    System.arraycopy(text, 0, payload, 0, payload.length);
                }
            }
            if (compressed && random.nextInt(4) > 0) payload = Compression.deflate(payload);
            if (compressed && random.nextInt(4) == 0) payload = mutate(random, payload);
            int kind = random.nextInt(8);
            if (kind == 0) {
                byte[] wild = masked(random.nextInt(256), payload);
                wild[1] = (byte) random.nextInt(256);
                return wild;
            }
            if (kind < 3) return masked(pick(random, 0x88, 0x89, 0x8a), Arrays.copyOf(payload,
                    Math.min(payload.length, random.nextInt(130))));
            int opcode = pick(random, 0x00, 0x01, 0x01, 0x01, 0x02);
            return masked((random.nextInt(3) > 0 ? 0x80 : 0) | (compressed ? 0x40 : 0) | opcode,
                    payload);
        }

        /// Some bytes changed, left out, doubled or added.
        private static byte[] mutate(Random random, byte[] bytes) {
            byte[] all = bytes;
            for (int i = 1 + random.nextInt(4); i > 0; i--) {
                int at = random.nextInt(all.length + 1), to = Math.min(all.length,
                        at + random.nextInt(20));
                byte[] middle = Arrays.copyOfRange(all, at, to);
                byte[] changed = switch (random.nextInt(5)) {
                    case 0 -> new byte[0];
                    case 1 -> join(middle, middle);
                    case 2 -> join(middle, bytes("%02x".formatted(random.nextInt(256))));
                    case 3 -> join(middle, utf8(pick(random, "\r\n", "\r", "\n", ":", " ", ",", ";",
                            "\"", "%00", "%", "é", "\0", "x".repeat(9000))));
                    default -> {
                        random.nextBytes(middle);
                        yield middle;
                    }
                };
                byte[] end = Arrays.copyOfRange(all, to, all.length);
                all = join(Arrays.copyOf(all, at), changed, end);
            }
            return all;
        }

        /// The page's port gets some, too, and still has the page then.
        private static void page(Chat chat, Random random) throws IOException {
            String request = "GET /chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            for (int i = 0; i < 300; i++)
                try (Raw raw = new Raw(chat.httpPort())) {
                    raw.write(mutate(random, utf8(request))).socket.shutdownOutput();
                    if (random.nextBoolean()) raw.reset();
                    else raw.in.readAllBytes();
                } catch (SocketException reset) {
                    continue;
                }
            try (Raw raw = new Raw(chat.httpPort())) {
                assertTrue(raw.ascii(request).readAll().startsWith("HTTP/1.1 200 "));
            }
        }

        @SafeVarargs
        private static <T> T pick(Random random, T... of) { return of[random.nextInt(of.length)]; }
    }

    // ---- The command line ---------------------------------------------------------------------

    // ---- Several servers: rooms, names and people are the same on all of them -----------------

    /// Servers that share their rooms through an engine. It is a real one here: `redis-server`.
    @Nested
    @DisplayName("Several servers")
    class Servers {
        private static final String AWAY = " .... other servers cannot be reached.",
                BACK = " .... other servers can be reached again.";

        /// An engine on a free port, which keeps nothing; the servers at it, and their guests.
        private static final class Engine implements AutoCloseable {
            final int port = freePort();
            final List<Chat> chats = new ArrayList<>();
            final List<Guest> guests = new ArrayList<>();
            Process process;
            private String password;

            Engine(int count, String... options) throws Exception {
                assumeInstalled("redis-server");
                start(options);
                for (int i = 0; i < count; i++) chats.add(chat(url("one")));
            }

            String url(String prefix) { return "--redis=redis://127.0.0.1:" + port + "/" + prefix; }

            Guest guest(int chat, String room, String... headers) throws IOException {
                guests.add(new Guest(chats.get(chat).webSocketPort(), room, headers));
                return guests.get(guests.size() - 1);
            }

            void start(String... options) throws Exception {
                if (process != null) process.destroyForcibly().onExit().join();
                int secret = List.of(options).indexOf("--requirepass") + 1;
                password = secret == 0 ? "" : "AUTH " + options[secret] + "\r\n";
                process = new ProcessBuilder(Stream.concat(Stream.of("redis-server", "--bind",
                        "127.0.0.1", "--port", "" + port, "--save", "", "--appendonly", "no",
                        "--logfile", "/dev/null"), Stream.of(options)).toList()).start();
                Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
                for (; process.isAlive(); Thread.sleep(5))
                    try { if (ask("PING").contains("+PONG")) return; } catch (IOException no) { }
            }

            /// KILL ends it, STOP makes it deaf, CONT makes it well.
            void signal(String name) throws Exception {
                if (!process.isAlive()) start();
                else new ProcessBuilder("kill", "-" + name, "" + process.pid()).start().waitFor();
                if (name.equals("KILL")) process.onExit().join();
            }

            /// @return the lines of the answer, without those that tell a size
            List<String> ask(String command) throws IOException {
                try (Raw raw = new Raw(port).ascii(password + command + "\r\nQUIT\r\n")) {
                    return raw.readAll().lines().filter(line ->
                            !line.matches("([$*]-?\\d+|[+]OK)?")).toList();
                }
            }

            /// The rooms that servers hear of, each with the number of these.
            List<String> rooms(String all) throws IOException {
                return ask("PUBSUB NUMSUB " + String.join(" ", ask("PUBSUB CHANNELS " + all)));
            }

            @Override
            public void close() throws IOException {
                for (Guest guest : guests) guest.close();
                chats.forEach(Chat::close);
                process.destroyForcibly().onExit().join();
            }
        }

        /// A wire to the engine that can be cut, and that keeps back in its first connections what
        /// servers ask (`requests`), what is answered, or what comes for who has subscribed.
        private static final class Wire implements AutoCloseable {
            final ServerSocket entry = new ServerSocket();
            final List<Socket> ends = new CopyOnWriteArrayList<>();
            /// Bytes that have passed, by their kind.
            final Map<String, Long> passed = new ConcurrentHashMap<>();
            volatile String kept = "";
            volatile int first = Integer.MAX_VALUE;
            volatile boolean askerPasses;
            /// ms that all is on its way, however much it is.
            volatile int delay;

            Wire(int engine) throws IOException {
                entry.setReceiveBufferSize(1 << 16);            // so that it is soon full
                entry.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
                Thread.startVirtualThread(() -> {
                    while (!entry.isClosed())
                        try {
                            Socket here = entry.accept(), there = new Socket("127.0.0.1", engine);
                            ends.addAll(List.of(here, there));
                            var subscribed = new AtomicBoolean();
                            Thread.startVirtualThread(() -> pump(here, there, true, subscribed));
                            Thread.startVirtualThread(() -> pump(there, here, false, subscribed));
                        } catch (IOException closed) { }
                });
            }

            String url() { return "--redis=redis://127.0.0.1:" + entry.getLocalPort() + "/one"; }

            private void pump(Socket from, Socket to, boolean up, AtomicBoolean subscribed) {
                byte[] bytes = new byte[1 << 16];
                int number = ends.indexOf(from);
                var due = new LinkedBlockingQueue<Map.Entry<Long, byte[]>>(100);
                if (delay > 0) Thread.startVirtualThread(() -> arrive(due, to));
                try (from; to) {
                    for (int size; (size = from.getInputStream().read(bytes)) > 0; ) {
                        if (up && new String(bytes, 0, size).matches("(?is).*\\bSUBSCRIBE\\b.*"))
                            subscribed.set(true);
                        String what = up ? "requests" : subscribed.get() ? "deliveries" : "answers";
                        while (what.equals(kept) && number < first
                                && !(askerPasses && !subscribed.get())) Thread.sleep(1);
                        passed.merge(what, (long) size, Long::sum);
                        if (delay == 0) to.getOutputStream().write(bytes, 0, size);
                        else due.put(Map.entry(System.nanoTime() + delay * 1_000_000L,
                                Arrays.copyOf(bytes, size)));
                    }
                } catch (IOException | InterruptedException closed) { }
            }

            private static void arrive(BlockingQueue<Map.Entry<Long, byte[]>> due, Socket to) {
                try {
                    while (!to.isClosed()) {
                        var next = due.poll(1, TimeUnit.SECONDS);
                        if (next == null) continue;
                        java.util.concurrent.locks.LockSupport.parkNanos(
                                next.getKey() - System.nanoTime());
                        to.getOutputStream().write(next.getValue());
                    }
                } catch (IOException | InterruptedException closed) { }
            }

            void cut() throws IOException { for (Socket end : ends) end.close(); }

            @Override
            public void close() throws IOException {
                entry.close();
                cut();
                kept = "";
            }
        }

        private static Chat.Redis redis(Chat chat) throws Exception {
            return (Chat.Redis) field(Chat.Rooms.class, "redis").get(rooms(chat));
        }

        private static Map<?, ?> unseen(Chat.Redis redis) throws Exception {
            return (Map<?, ?>) field(Chat.Redis.class, "unseen").get(redis);
        }

        /// In how many ms a name will be free, unless its server gives a sign of life.
        private static long life(Engine engine, String name) throws IOException {
            return Long.parseLong(engine.ask("PTTL one:name:" + name).get(0).substring(1));
        }

        private static void allHear(List<Guest> guests, String... lines) throws IOException {
            for (Guest guest : guests) guest.hears(lines);
        }

        private static <A, B> List<B> together(Stream<A> all, Function<A, Callable<B>> task)
                throws Exception {
            var results = new ArrayList<B>();
            try (var executor = Executors.newVirtualThreadPerTaskExecutor()) {
                for (var one : executor.invokeAll(all.map(task).toList())) results.add(one.get());
            }
            return results;
        }

        private static void allHear(List<Guest> guests, int number) throws IOException {
            for (Guest guest : guests) for (Guest each : guests)
                while (!guest.heard.contains(each.name + ": " + number)) guest.line();
        }

        private static void talk(List<Guest> all, int from, int to) throws IOException {
            for (Guest guest : all) for (int i = from; i < to; i++) guest.say("" + i);
        }

        @Test
        @DisplayName("a room is on all servers: lines, who comes, who is here, who leaves")
        void aRoomIsOnAllServers() throws Exception {
            try (Engine engine = new Engine(3); Chat two = chat(engine.url("one2"));
                    Chat usual = chat("--redis", "redis://127.0.0.1:" + engine.port)) {
                Guest ada = engine.guest(0, "tea", PRESENCE),
                        bob = engine.guest(1, "tea", PRESENCE), eve = engine.guest(2, "tea");
                String joined = " .... " + eve.name + " has joined.", before = ada.name;
                ada.hears(bob.arrival, joined, eve.arrival);
                bob.hears(joined, eve.arrival);
                for (Guest guest : engine.guests) {
                    guest.sees(ada.name, bob.name, eve.name).say("hello");
                    allHear(engine.guests, guest.name + ": hello");
                }
                for (Chat chat : List.of(two, usual))           // other prefixes, other worlds
                    try (var guest = new Guest(chat.webSocketPort(), "tea").named("Ada")) {
                        guest.sees("Ada");
                        for (String key : engine.ask("KEYS *"))         // should all be killed
                            assertFalse(engine.ask("PTTL " + key).contains(":-1"), key);
                        assertEquals(":1", engine.rooms(chat == two ? "one2:*" : "chat:*").get(1));
                    }
                engine.guest(0, "milk").sees(engine.guests.get(3).name).leave();
                ada.say("I").say("/nick Ada").say("am").say("//Ada");
                for (Guest guest : List.of(ada, bob, eve)) guest.hears(before + ": I", " .... "
                        + before + " is now Ada.", "Ada: am", "Ada: /Ada");
                talk(List.of(eve), 0, 50);
                eve.leave();
                for (int i = 0; i < 50; i++) allHear(List.of(ada, bob), eve.name + ": " + i);
                for (Guest guest : List.of(ada, bob))
                    guest.hears(" .... " + eve.name + " has left.").sees("Ada", bob.name);
            }
        }

        @Test
        @DisplayName("30 on three servers say 200 lines each: all hear all of them in one order")
        void allHearTheSame() throws Exception {
            try (Engine engine = new Engine(3)) {
                for (int i = 0; i < 30; i++) engine.guest(i % 3, "load");
                Guest last = engine.guests.get(29);
                for (Guest guest : engine.guests.subList(0, 29)) guest.until(last.arrival);
                var all = together(engine.guests.stream(), guest -> () -> {
                    talk(List.of(guest), 0, 200);
                    guest.heard.clear();
                    while (guest.heard.size() < 6000) guest.line();
                    return guest.heard;
                });
                for (var heard : all) assertEquals(all.get(0), heard);
                for (Guest guest : engine.guests) last.assertAllOf(guest, 200);
                last.say("end");
                allHear(engine.guests, last.name + ": end");
            }
        }

        @Test
        @DisplayName("many come and go: each hears himself come first; nothing is left of them")
        void manyComeAndGo() throws Exception {
            try (Engine engine = new Engine(3)) {
                Guest porter = engine.guest(1, "door");
                var refreshing = new AtomicBoolean(true);       // else now and then only
                for (Chat chat : engine.chats) {
                    Chat.Redis redis = redis(chat);
                    Thread.startVirtualThread(() -> {
                        while (refreshing.get()) redis.keepAlive();
                    });
                }
                var lines = together(IntStream.range(0, 150).boxed(), i -> () -> {
                    try (var guest = new Guest(engine.chats.get(i % 3).webSocketPort(), "door",
                            i % 2 == 0 ? new String[] {PRESENCE} : new String[0])) {
                        guest.say("" + i).until(guest.name + ": " + i);
                        guest.assertOnce("");
                        if (i % 5 > 0) guest.leave();
                        return List.of(guest.name + ": " + i, " .... " + guest.name + " has left.");
                    }
                });
                porter.until(lines.stream().flatMap(List::stream).toArray(String[]::new));
                refreshing.set(false);
                porter.assertOnce("");
                porter.sees(porter.name);
                eventually(":1", () -> engine.rooms("one:*").get(1));
                eventually(List.of("one:name:" + porter.name), () -> engine.ask("KEYS one:name:*"));
                porter.leave();
                eventually(List.of(), () -> engine.rooms("one:*"));
                for (Chat chat : engine.chats) eventually(true, () -> isEmpty(rooms(chat)));
            }
        }

        @Test
        @DisplayName("nothing typed is a command; rooms of all scripts are rooms of their own")
        void nothingTypedIsACommand() throws Exception {
            try (Engine engine = new Engine(2)) {
                var all = engine.guests;
                engine.guest(0, "tea").hears(engine.guest(1, "tea").arrival);
                for (String text : List.of("", " ", "\r\n", "\0", "a\0b\n", "$", "SET bad 1\r\n",
                        "*3\r\n$3\r\nSET\r\n$3\r\nbad\r\n$1\r\n1\r\n", "\r\nSET bad 1\r\n",
                        "+OK\r\n", "*-1\r\n", AWAY, "1 2 3", "😀\ud801\udc00é\ufeff",
                        "x".repeat(70_000), "x".repeat((1 << 20) - 128),
                        "😀".repeat((1 << 18) - 32)))
                    for (Guest guest : List.copyOf(all)) {
                        guest.say(text);
                        allHear(all, guest.name + ": " + text.replaceAll(
                                "(?>\r\n|[\r\n])(?!\\z)", "$0\t"));
                        guest.say("/nick \0" + text.substring(text.length() / 2))
                                .hears(" .... A name has 1 to 24 letters, digits, - or _.");
                    }
                var names = List.of("größe", "grosse", "gr__e", "gr-C3-B6-C3-9Fe", "日本", "日",
                        "TEA", "te", "a-b", "a_b", "-", "٣", "3", "\ud801\udc00".repeat(64));
                for (String name : names)
                    engine.guest(0, name).hears(engine.guest(1, name).arrival);
                for (int i = 0; i < all.size(); i++)
                    allHear(all.subList(i & ~1, (i & ~1) + 2), all.get(i).say("I").name + ": I");
                for (Guest guest : all) guest.raw.assertNothingMore();
                assertEquals(2 * names.size() + 2, engine.rooms("one:*").size());
                for (String key : engine.ask("KEYS *"))
                    assertTrue(key.matches("one:(name|who):[^\\s:]+"), key);
            }
        }

        @Test
        @DisplayName("a name is unique over all servers, in other writings too, and free again")
        void aNameIsUnique() throws Exception {
            try (Engine engine = new Engine(2)) {
                Guest ada = engine.guest(0, "tea"), bob = engine.guest(1, "milk"),
                        eve = engine.guest(1, "juice");
                bob.say("/nick " + ada.name).hears(" .... The name " + ada.name + " is taken.");
                ada.named("Ádä").named("ádÄ");          // one's own name in another writing
                for (String same : List.of("Ádä", "ÁDÄ", "ádÄ"))
                    bob.say("/nick " + same).hears(" .... The name " + same + " is taken.");
                ada.named("a");
                bob.named("ádä");
                ada.say("/nick Ádä").hears(" .... The name Ádä is taken.");
                for (int i = 0; i < 50; i++) {          // of those who want it, one gets it
                    String nick = "n" + i;
                    var answers = together(Stream.of(ada, bob, eve), guest ->
                            () -> guest.say("/nick " + nick).line());
                    answers.removeIf((" .... The name " + nick + " is taken.")::equals);
                    assertEquals(1, answers.size(), answers::toString);
                    assertTrue(answers.get(0).endsWith(" is now " + nick + "."), answers::toString);
                }
                for (Guest guest : List.of(ada, bob)) guest.leave();
                for (String free : List.of("a", "ádä", "n49", "n0")) eventually(true, () ->
                        eve.say("/nick " + free).line().endsWith(" is now " + free + "."));
                for (int from = 10_000; from < 100_000; from += 5_000)      // it answers meanwhile
                    engine.ask("EVAL \"for i = " + from + ", " + (from + 4_999) + " do redis.call("
                            + "'SET', 'one:name:user-' .. i, 'x', 'PX', 60000) end\" 0");
                for (int i = 0; i < 10; i++)
                    assertTrue(engine.guest(i % 2, "tea").name.matches("user-\\d{1,4}"));
            }
        }

        @Test
        @DisplayName("kill -9 for a server: within a minute its people are gone, their names free")
        void whoIsKilledIsForgotten() throws Exception {
            try (Engine engine = new Engine(1); Program doomed = Program.chat(engine.url("one"))) {
                int port = doomed.ready().webSocketPort();
                Guest ada = engine.guest(0, "tea").named("a1"), eve = new Guest(port, "tea");
                ada.hears(eve.named("e1").arrival, eve.heard.get(1)).sees("a1", "e1");
                doomed.process.destroyForcibly().onExit().join();
                ada.say("/nick e1").hears(" .... The name e1 is taken.");
                long now = System.currentTimeMillis();
                String key = "one:who:tea";                             // who is here
                List<String> end = engine.ask("ZSCORE " + key + " e1"), both = engine.ask(
                        "ZCOUNT " + key + " " + now + " " + (now + 61_000));
                assertEquals(List.of(":2"), both, key);
                for (; !engine.ask("ZRANGE " + key + " 0 0").contains("e1"); Thread.sleep(50))
                    assertTrue(System.currentTimeMillis() < now + 60_000, "a1 is dead, too");
                assertEquals(end, engine.ask("ZSCORE " + key + " e1"), "e1 is alive");
                engine.ask("ZADD " + key + " 1 e1");            // as if all was long ago
                eventually(true, () -> life(engine, "e1") < life(engine, "a1") - 1000);
                assertTrue(life(engine, "e1") > 0 && life(engine, "a1") < 60_000);
                ada.hears(" .... e1 has left.");
                for (; !ada.say("/who").line().equals(" .... 1 here: a1"); Thread.sleep(50))
                    assertTrue(System.currentTimeMillis() < now + 120_000, "e1 is here");
                ada.say("/nick e1").hears(" .... The name e1 is taken.");
                engine.ask("PEXPIRE one:name:e1 1");
                eventually(true, () -> ada.say("/nick e1").line().endsWith(" is now e1."));
            }
        }

        @ParameterizedTest
        @DisplayName("the engine is killed, or deaf: each room is told once, and goes on alone")
        @ValueSource(strings = {"KILL", "STOP"})
        void theEngineGoesAway(String signal) throws Exception {
            try (Engine engine = new Engine(2)) {
                Guest eve = engine.guest(0, "milk", PRESENCE), ada = engine.guest(0, "tea"),
                        ann = engine.guest(0, "tea"), bob = engine.guest(1, "tea");
                List<Guest> here = List.of(ada, ann), all = List.of(ada, ann, bob);
                for (Guest guest : here) guest.until(bob.arrival);
                for (int i = 0; i < 2; i++) {
                    String round = "" + i;
                    engine.signal(signal);
                    for (Guest guest : List.of(ada, bob)) guest.say("anyone?" + round);
                    for (Guest guest : here) guest.until(AWAY, ada.name + ": anyone?" + round);
                    bob.until(AWAY, bob.name + ": anyone?" + round);
                    eve.hears(AWAY);
                    assertTimeout(Duration.ofSeconds(3 * PATIENCE), () -> {
                        for (int n = 0; n < 10; n++) {
                            Guest guest = engine.guest(0, "tea");
                            allHear(here, guest.arrival);
                            guest.sees(ada.name, ann.name, guest.name).leave();
                            allHear(here, " .... " + guest.name + " has left.");
                            String was = ada.name, is = ada.named("ada" + round + n).name;
                            ann.hears(" .... " + was + " is now " + is + ".").say("/nick " + is)
                                    .hears(" .... The name " + is + " is taken.");
                        }
                    });
                    engine.signal("CONT");
                    eve.hears(BACK);
                    for (Guest guest : all) guest.until(BACK);
                    talk(all, i, i + 1);
                    allHear(all, i);
                    bob.say("/nick " + ada.name).hears(" .... The name " + ada.name + " is taken.");
                    eventually(true, () -> List.of(bob.say("/who").line().split("[ ,]+"))
                            .containsAll(
                            List.of(ada.name, ann.name, bob.name)));
                    for (Guest guest : List.of(ada, ann, bob, eve))
                        guest.assertOnce((AWAY + BACK).repeat(i + 1));
                }
            }
        }

        @ParameterizedTest
        @DisplayName("while all talk the engine or the wire fails: nothing is lost or comes twice")
        @ValueSource(strings = {"KILL", "STOP", "requests", "answers", "deliveries",
            "requests cut", "answers cut", "deliveries cut"})
        void aFaultWhileAllTalk(String fault) throws Exception {
            boolean wired = fault.matches("[a-z ]+");
            try (Engine engine = new Engine(1); Wire wire = new Wire(engine.port)) {
                engine.chats.add(chat(wire.url()));
                for (int i = 0; i < 6; i++) engine.guest(i % 2, "busy");
                var all = engine.guests;
                Guest one = all.get(0), last = all.get(5);
                var apart = wired ? List.of(all.get(1), all.get(3), last) : all;
                talk(all, 0, 5);
                allHear(all, 4);
                for (Guest guest : all) guest.heard.removeIf(line -> line.contains(" I am "));
                wire.first = wire.ends.size();
                wire.kept = fault.split(" ")[0];
                talk(List.of(last), 5, 15);
                if (fault.matches("(answers|deliveries) cut")) one.until(last.name + ": 5");
                if (fault.endsWith(" cut")) wire.cut();
                else if (!wired) engine.signal(fault);
                talk(all.subList(0, 5), 5, 15);
                for (Guest guest : apart) guest.until(AWAY);
                if (!wired) engine.signal("CONT");
                for (Guest guest : apart) guest.until(BACK);
                wire.kept = "";                             // late, what was asked arrives
                if (fault.equals("requests")) one.until(last.name + ": 5");
                talk(all, 15, 20);
                allHear(all, 19);
                for (Guest guest : all) {
                    guest.assertAllOf(guest, 20);
                    guest.assertOnce(apart.contains(guest) ? AWAY + BACK : "");
                }
                for (int i = 2; i < 6; i++) assertEquals(all.get(i).heard, all.get(i % 2).heard);
            }
        }

        @Test
        @DisplayName("two who leave a room together are both told of while somebody hears it")
        void twoLeaveTogether() throws Exception {
            try (Engine engine = new Engine(1)) {
                for (int i = 0; i < 60; i++) {
                    String room = "r" + i;
                    together(Stream.of(engine.guest(0, room), engine.guest(0, room)),
                            guest -> () -> { guest.raw.close(); return null; });
                }
                eventually(true, () -> isEmpty(rooms(engine.chats.get(0))));
                assertEquals(0, unseen(redis(engine.chats.get(0))).size());
            }
        }

        @Test
        @DisplayName("who can't be reached again to the end was never reached again")
        void deafInTheMiddleOfAReconnect() throws Exception {
            try (Engine engine = new Engine(0); Wire wire = new Wire(engine.port)) {
                engine.chats.add(chat(wire.url()));
                Guest ada = engine.guest(0, "tea");
                for (int i = 0; i < 400; i++) engine.guest(0, "r" + i);
                engine.signal("KILL");
                ada.until(AWAY);
                engine.start();
                while (engine.ask("KEYS one:who:*").size() < 10) Thread.onSpinWait();
                wire.kept = "answers";
                assertEquals(false, field(Chat.Redis.class, "carries")
                        .get(redis(engine.chats.get(0))));
                wire.cut();
                wire.kept = "";
                ada.until(BACK);
                ada.say("end").until(ada.name + ": end");
                ada.assertOnce(AWAY + BACK);
            }
        }

        /// The way to be heard is longer than the way to ask.
        @Test
        @DisplayName("who comes while the engine comes back hears himself")
        void whoComesMeanwhileHearsHimself() throws Exception {
            try (Engine engine = new Engine(0); Wire wire = new Wire(engine.port)) {
                var heard = new LinkedBlockingQueue<String>();
                var gate = new Semaphore(1);
                var redis = new Chat.Redis(URI.create(wire.url().replace("--redis=", ""))) {
                    @Override void deliver(String topic, String line) { heard.add(line); }
                    @Override void reachable(boolean again) { heard.add("" + again); }
                    @Override void refresh() {
                        gate.acquireUninterruptibly();
                        gate.release();
                    }
                };
                redis.publish("early", "1", () -> heard.add("1"));
                assertEquals("1", heard.take());
                gate.acquire();
                wire.first = 0;
                wire.cut();
                assertEquals("false", heard.take());
                eventually(true, gate::hasQueuedThreads);
                wire.kept = "requests";
                wire.first = Integer.MAX_VALUE;
                redis.publish("late", "2", () -> heard.add("2"));
                assertEquals("2", heard.take());                // here only
                wire.askerPasses = true;
                gate.release();
                assertEquals("true", heard.take());
                Thread.startVirtualThread(() -> redis.publish("late", "3",
                        () -> heard.add("3")));
                eventually(1, unseen(redis)::size);
                wire.kept = "";
                assertEquals("3", heard.poll(PATIENCE, TimeUnit.SECONDS));
                redis.close();
            }
        }

        @Test
        @DisplayName("a line that is stuck on its way to the engine holds up others for 5 s")
        void aWriteHasAnEnd() throws Exception {
            try (Engine engine = new Engine(0); Wire wire = new Wire(engine.port)) {
                engine.chats.add(chat(wire.url(), "--max-message=33554432",
                        "--max-queue=200000000"));
                Guest ada = engine.guest(0, "tea"), bob = engine.guest(0, "tea");
                ada.until(bob.arrival);
                wire.first = 2;                                 // only what is asked is stuck
                wire.kept = "requests";
                bob.say("x".repeat(32_000_000));
                eventually(1, unseen(redis(engine.chats.get(0)))::size);
                // On a slow machine the engine may be back before she has said it.
                ada.say("small").until(AWAY, BACK, ada.name + ": small");
                wire.kept = "";
            }
        }

        @Test
        @DisplayName("a failed start leaves no connection")
        void aFailedStartLeavesNothing() throws Exception {
            try (Engine engine = new Engine(0, "--user", "ada", "on", ">pw", "~*", "&*", "+@all",
                    "-publish")) {
                String url = engine.url("one").replace("//", "//ada:pw@");
                assertThrows(IOException.class, () -> chat(url));
                eventually(1, () -> engine.ask("CLIENT LIST").size());      // who asks this
            }
        }

        @Test
        @DisplayName("an engine that refuses to keep names still carries lines")
        void whatIsRefusedIsNotLost() throws Exception {
            try (Engine engine = new Engine(2)) {
                engine.ask("CONFIG SET maxmemory 1");
                Guest ada = engine.guest(0, "tea"), bob = engine.guest(1, "tea").named("bob");
                ada.until(" .... " + bob.heard.get(0).split(":")[0] + " is now bob.");
                talk(List.of(ada, bob), 0, 20);
                allHear(List.of(ada, bob), 19);
                for (Guest guest : List.of(ada, bob)) guest.assertOnce("");
                ada.sees(ada.name);
                engine.ask("CONFIG SET maxmemory 0");
                for (Chat chat : engine.chats) redis(chat).refresh();
                ada.sees(ada.name, "bob").say("/nick bob").hears(" .... The name bob is taken.");
            }
        }

        @ParameterizedTest
        @DisplayName("no start without the engine (exit 1) or with a bad URL (2), and no password")
        @CsvSource({"1, redis://:s3crets@127.0.0.1:{engine}", "1, redis://127.0.0.1:{engine}",
            "1, redis://:s3cret@127.0.0.1:{nobody}/one", "1, redis://:s3cret@127.0.0.1:{silent}",
            "2, redis", "2, redis://", "2, 127.0.0.1:6379", "2, http://:s3cret@127.0.0.1:6379",
            "2, redis://:s3cret@", "2, redis://:s3cret@:6379", "2, redis://:s3cret@127.0.0.1:x",
            "2, redis://:s3cret@127.0.0.1:65536", "2, redis://:s3cret^@127.0.0.1:6379",
            "1, redis://:s3cret@my_host", "2, redis://:s3cret@my_host:x", "1, redis://:s3cret@[::1]:{nobody}",
            "1, redis://:s3cret@127.0.0.1:{mail}"})
        void noStart(int status, String url) throws Exception {
            try (Engine engine = new Engine(0, "--requirepass", "s3cret");
                    var silent = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                    var mail = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                    Program program = Program.chat("--redis=" + url
                    .replace("{engine}", "" + engine.port).replace("{nobody}", "" + freePort())
                    .replace("{silent}", "" + silent.getLocalPort())
                    .replace("{mail}", "" + mail.getLocalPort()))) {
                if (url.contains("{mail}"))
                    mail.accept().getOutputStream().write(utf8("* OK IMAP4rev1 ready\r\n"));
                assertEquals(status + " []", program.exit() + " " + program.out);
                assertFalse(program.err.toString().contains("s3cret"), program.err::toString);
                if (status == 1) assertEquals(1, program.err.size(), program.err::toString);
                else assertTrue(String.join("\n", program.err).endsWith(Chat.Options.USAGE));
            }
        }

        @ParameterizedTest
        @DisplayName("the password, of the URL or the environment, opens the engine, unseen")
        @ValueSource(strings = {"", ":p%40ss%3Aw%2Frd%2B1%25@", "ada:p%40ss%3Aw%2Frd%2B1%25@"})
        void thePasswordIsNotSeen(String inUrl) throws Exception {
            String password = "p@ss:w/rd+1%";
            String[] options = {"--requirepass", password, "--user", "ada", "on", ">" + password,
                "~*", "&*", "+@all"};
            try (Engine engine = new Engine(0, options); Program program = Program.under(
                    List.of("env", "CHAT_REDIS_PASSWORD=" + (inUrl.isEmpty() ? password : "no")),
                    "--trace", "--redis=redis://" + inUrl + "127.0.0.1:" + engine.port)) {
                try (var ada = new Guest(program.ready().webSocketPort(), "tea")) {
                    assertEquals(inUrl.startsWith("ada"), engine.ask("CLIENT LIST")
                            .toString().contains(" user=ada "));
                    engine.start("--requirepass", "another");
                    ada.hears(AWAY);
                    eventually(true, () -> engine.ask("ACL LOG").contains("auth"));
                    engine.start(options);
                    ada.hears(BACK).say("again").hears(ada.name + ": again");
                }
                program.terminate();
                assertEquals(143, program.exit());
                for (String line : (program.out + "\n" + program.err).split("\n"))
                    assertFalse(line.contains(password) || line.contains("p%40ss"), line);
            }
        }

        @Test
        @DisplayName("rediss:// is TLS, with a certificate that must be right")
        void tls() throws Exception {
            Path folder = temporary();
            makeKeys(folder + "/keys", "s3cret", "san=dns:localhost");
            var store = KeyStore.getInstance(new File(folder + "/keys"), "s3cret".toCharArray());
            String pem = "-----BEGIN %1$s-----\n%2$s\n-----END %1$s-----\n";
            Function<byte[], String> text = Base64.getMimeEncoder()::encodeToString;
            Files.writeString(folder.resolve("pem"), pem.formatted("CERTIFICATE", text.apply(
                    store.getCertificate("chat").getEncoded())) + pem.formatted("PRIVATE KEY",
                    text.apply(store.getKey("chat", "s3cret".toCharArray()).getEncoded())));
            int port = freePort();
            try (Engine engine = new Engine(0, "--tls-port", "" + port, "--tls-auth-clients", "no",
                    "--tls-cert-file", folder + "/pem", "--tls-key-file", folder + "/pem")) {
                assumeTrue(engine.process.isAlive(), "this redis-server is built without TLS");
                engine.chats.add(chat(engine.url("one")));
                List<String> trust = List.of("env", "JDK_JAVA_OPTIONS=-Djavax.net.ssl.trustStore="
                        + folder + "/keys -Djavax.net.ssl.trustStorePassword=s3cret");
                String url = "--redis=rediss://localhost:" + port + "/one";
                try (Program right = Program.under(trust, url);
                        Program bad = Program.under(List.of(), url);
                        Program name = Program.under(trust, url.replace("localhost", "127.0.0.1"));
                        var bob = new Guest(right.ready().webSocketPort(), "tea")) {
                    Guest ada = engine.guest(0, "tea");
                    bob.hears(ada.arrival).say("€".repeat(300_000));
                    allHear(List.of(ada, bob), bob.name + ": " + "€".repeat(300_000));
                    assertEquals("1 1 1", bad.exit() + " " + bad.err.size() + " " + name.exit());
                }
            }
        }

        @Test
        @DisplayName("a server that stops takes its people along, and leaves nothing behind")
        void whoStopsLeavesNothing() throws Exception {
            eventually(0, () -> serverThreads().size());
            try (Engine engine = new Engine(2); Wire wire = new Wire(engine.port)) {
                Guest ada = engine.guest(0, "tea").named("ada"), bob = engine.guest(1, "tea");
                Thread closing = Thread.startVirtualThread(engine.chats.get(0)::close);
                while (ada.raw.frame().first() == 0x81) continue;
                ada.raw.frame(0x88, bytes("03 e9")).assertEnd();
                ada.close();
                closing.join();
                bob.hears(" .... ada has left.").sees(bob.name);
                eventually(List.of("one:name:" + bob.name), () -> engine.ask("KEYS one:name:*"));
                bob.leave();
                eventually(List.of(), () -> engine.ask("KEYS one:*"));
                engine.chats.get(1).close();
                Chat third = chat(wire.url());
                Guest eve = new Guest(third.webSocketPort(), "tea");
                wire.kept = "answers";
                wire.cut();
                eve.until(AWAY);
                int ends = wire.ends.size();
                eventually(true, () -> wire.ends.size() > ends);      // it is about to connect
                eve.close();
                third.close();
                wire.kept = "";
                eventually(1, () -> engine.ask("CLIENT LIST").size());
                eventually(0, () -> serverThreads().size());
            }
        }

        /// Nanoseconds until all of these have heard themselves say some lines.
        private static long talkTime(List<Guest> talkers, int from) throws Exception {
            long start = System.nanoTime();
            together(talkers.stream(), guest -> () -> {
                talk(List.of(guest), from, from + 10);
                guest.until(guest.name + ": " + (from + 9));
                return null;
            });
            return System.nanoTime() - start;
        }

        @Test
        @DisplayName("no line waits for another room's: far from the engine, 20 talk as fast as one")
        void talkersDoNotWaitForEachOther() throws Exception {
            try (Engine engine = new Engine(0); Wire wire = new Wire(engine.port)) {
                wire.delay = 40;
                engine.chats.add(chat(wire.url()));
                for (int i = 0; i < 20; i++) engine.guest(0, "r" + i);
                long alone = talkTime(engine.guests.subList(0, 1), 0);
                long all = talkTime(engine.guests, 10);
                assertTrue(all < 5 * alone, all + " ns, and " + alone + " ns for one");
            }
        }

        @Test
        @DisplayName("all who leave with a server that stops are told of, and their names are free")
        void whoStopsTellsOfAll() throws Exception {
            try (Engine engine = new Engine(1); Wire wire = new Wire(engine.port)) {
                Guest eve = engine.guest(0, "tea");
                wire.delay = 10;
                Chat far = chat(wire.url());
                var people = together(IntStream.range(0, 200).boxed(),
                        i -> () -> new Guest(far.webSocketPort(), "tea"));
                Thread closing = Thread.startVirtualThread(far::close);
                together(people.stream(), guest -> () -> {
                    while (guest.raw.frame().first() == 0x81) continue;
                    guest.raw.frame(0x88, bytes("03 e9"));
                    guest.raw.in.readAllBytes();
                    guest.close();
                    return null;
                });
                closing.join();
                eve.until(people.stream().map(guest -> " .... " + guest.name + " has left.")
                        .toArray(String[]::new));
                assertEquals(List.of("one:name:" + eve.name), engine.ask("KEYS one:name:*"));
            }
        }

        @Test
        @DisplayName("nobody gets the name of who is renamed before the room has heard of that")
        void anOldNameIsFreeWhenTheRoomKnows() throws Exception {
            try (Engine engine = new Engine(1); Wire wire = new Wire(engine.port)) {
                engine.chats.add(chat(wire.url()));
                Guest ada = engine.guest(1, "tea").named("ada"), bob = engine.guest(1, "milk"),
                        eve = engine.guest(0, "juice");
                wire.kept = "deliveries";
                ada.say("/nick bea");
                eventually(List.of("one:name:bea"), () -> engine.ask("KEYS one:name:bea"));
                for (Guest guest : List.of(bob, eve))
                    guest.say("/nick ada").hears(" .... The name ada is taken.");
                wire.kept = "";
                ada.hears(" .... ada is now bea.");
                eventually(List.of(), () -> engine.ask("KEYS one:name:ada"));
                eve.named("ada");
            }
        }

        @Test
        @DisplayName("/who costs no more in a crowd than among a hundred")
        void whoIsCheap() throws Exception {
            try (Engine engine = new Engine(0); Wire wire = new Wire(engine.port)) {
                engine.chats.add(chat(wire.url()));
                Guest ada = engine.guest(0, "tea");
                long[] cost = new long[2];
                for (int i = 0; i < 2; i++) {
                    int people = i == 0 ? 99 : 4999;
                    engine.ask("EVAL \"for i = 1, " + people + " do redis.call('ZADD', 'one:who:tea'"
                            + ", " + Long.MAX_VALUE / 1000 + ", 'z' .. i) end\" 0");
                    long before = wire.passed.get("answers");
                    String line = ada.say("/who").line();
                    cost[i] = wire.passed.get("answers") - before;
                    assertTrue(line.startsWith(" .... " + (people + 1) + " here: "), line);
                }
                assertTrue(cost[1] < 2 * cost[0], Arrays.toString(cost));
            }
        }

        @Test
        @DisplayName("an engine that becomes a replica, which takes no names, counts as lost")
        void aReplicaIsNoEngine() throws Exception {
            try (Engine engine = new Engine(1)) {
                Guest ada = engine.guest(0, "tea");
                engine.ask("REPLICAOF 127.0.0.1 " + freePort());
                ada.say("/nick ada").until(AWAY);
                engine.ask("REPLICAOF NO ONE");
                ada.until(BACK);
                ada.assertOnce(AWAY + BACK);
            }
        }

        @Test
        @DisplayName("a loss, each new cause and the return are logged, once")
        void lossesAreLogged() throws Exception {
            try (Engine engine = new Engine(0); Program program = Program.chat(engine.url("one"));
                    var ada = new Guest(program.ready().webSocketPort(), "tea")) {
                engine.signal("KILL");
                ada.until(AWAY);
                try (var deaf = new ServerSocket(engine.port)) {
                    for (int i = 0; i < 6; i++) deaf.accept().close();
                }
                engine.start();
                ada.until(BACK);
                program.terminate();
                program.exit();
                var lines = program.err.stream().filter(line -> line.contains("Redis"))
                        .map(line -> line.replaceFirst("^\\S+ ", "")).toList();
                assertTrue(lines.get(0).startsWith("Redis is lost: "), lines::toString);
                assertEquals("Redis can be reached again", lines.get(lines.size() - 1));
                assertTrue(lines.size() >= 3 && lines.size() <= 5, lines::toString);
                for (int i = 1; i < lines.size(); i++)
                    assertNotEquals(lines.get(i - 1), lines.get(i));
            }
        }

        @Test
        @DisplayName("a long line travels compressed")
        void aLongLineTravelsCompressed() throws Exception {
            try (Engine engine = new Engine(1); Wire wire = new Wire(engine.port)) {
                engine.chats.add(chat(wire.url()));
                Guest ada = engine.guest(0, "tea"), bob = engine.guest(1, "tea");
                ada.until(bob.arrival);
                long before = wire.passed.get("deliveries");
                for (Guest guest : List.of(ada, bob)) {
                    String text = guest.name.repeat(100_000);
                    guest.say(text);
                    allHear(List.of(ada, bob), guest.name + ": " + text);
                }
                assertTrue(wire.passed.get("deliveries") - before < 100_000, wire.passed::toString);
            }
        }

        @Test
        @DisplayName("when 100 have come at two servers at once, all soon know how many they are")
        void countsAreRight() throws Exception {
            try (Engine engine = new Engine(2)) {
                var all = new ArrayList<Raw>(together(IntStream.range(0, 100).boxed(), i -> () -> {
                    Raw raw = Raw.open(engine.chats.get(i % 2), "/chat/tea", PRESENCE);
                    Thread.startVirtualThread(() -> {
                        try {
                            while (true) raw.line();
                        } catch (IOException closed) {
                            // it has left
                        }
                    });
                    return raw;
                }));
                while (all.size() > 0) {
                    for (Raw raw : all) eventually(all.size(), () -> raw.count);
                    var gone = all.subList(0, (all.size() + 2) / 3);
                    together(List.copyOf(gone).stream(), raw -> () -> {
                        raw.close();
                        return null;
                    });
                    gone.clear();
                }
            }
        }

        @Test
        @DisplayName("whether it is a crowd is judged by the people at all servers together")
        void aCrowdIsOfAllServers() throws Exception {
            try (Engine engine = new Engine(2)) {
                engine.ask("EVAL \"for i = 1, " + (Chat.Rooms.CROWD - 1) + " do redis.call('ZADD', "
                        + "'one:who:tea', " + Long.MAX_VALUE / 1000 + ", 'z' .. i) end\" 0");
                Guest ada = engine.guest(0, "tea", PRESENCE);
                assertEquals(Chat.Rooms.CROWD, ada.raw.count);
                Guest bob = engine.guest(1, "tea", PRESENCE);
                assertEquals(Chat.Rooms.CROWD + 1, bob.raw.count);
                bob.say("I").hears(bob.name + ": I");
                ada.hears(bob.name + ": I");
                bob.leave();
                eventually(List.of(":" + Chat.Rooms.CROWD), () -> engine.ask("ZCARD one:who:tea"));
                ada.say("still me").hears(ada.name + ": still me");
            }
        }

        @Test
        @DisplayName("of two who took a name while servers were apart, one gets another")
        void nobodySharesAName() throws Exception {
            try (Engine engine = new Engine(2)) {
                Guest ada = engine.guest(0, "tea"), eve = engine.guest(1, "tea");
                ada.until(eve.arrival);
                engine.signal("KILL");
                for (Guest guest : List.of(ada, eve)) {
                    guest.until(AWAY);
                    guest.named("ada");
                }
                engine.start();
                int losers = 0;
                for (Guest guest : List.of(ada, eve)) {
                    guest.until(BACK);
                    String line = guest.line();
                    if (line.equals(" .... At another server somebody has the name ada, too.")) {
                        losers++;
                        line = guest.line();
                    }
                    assertTrue(line.matches(" [.]{4} ada is now user-\\d+[.]"), line);
                    String other = line.split(" ")[5].replace(".", "");
                    guest.sees("ada", other);
                }
                assertEquals(1, losers);
                assertEquals(2, engine.ask("KEYS one:name:*").size());
            }
        }

        @Test
        @DisplayName("each of the two connections is watched: if one is closed, nobody need speak")
        void bothConnectionsAreWatched() throws Exception {
            try (Engine engine = new Engine(1)) {
                Guest ada = engine.guest(0, "tea");
                for (String subscriptions : List.of("0", "1")) {
                    String client = engine.ask("CLIENT LIST").stream().filter(line ->
                            line.contains(" sub=" + subscriptions + " ")
                            && !line.contains(" cmd=client")).findFirst().orElseThrow();
                    engine.ask("CLIENT KILL " + client.replaceFirst(".*\\baddr=(\\S+) .*", "$1"));
                    ada.hears(AWAY, BACK);
                }
            }
        }

        @Test
        @DisplayName("a server whose clock is wrong judges by the engine's")
        void clocksNeedNotAgree() throws Exception {
            try (Engine engine = new Engine(1)) {
                Guest ada = engine.guest(0, "tea");
                Chat.Redis redis = redis(engine.chats.get(0));
                field(Chat.Redis.class, "ahead").set(redis, 3_600_000L);
                redis.keepAlive();
                long end = Long.parseLong(engine.ask("ZSCORE one:who:tea " + ada.name).get(0));
                long left = end - System.currentTimeMillis();
                assertTrue(left > 0 && left <= Chat.Rooms.LIFE, left + " ms");
            }
        }

        @Test
        @DisplayName("a host's name may have a _, as Docker Compose gives them")
        void aHostMayHaveALowLine() {
            var refused = assertThrows(IOException.class,
                    () -> new Chat.Resp(URI.create("redis://:pass@my_host:" + freePort() + "/x")));
            assertTrue(refused.getMessage().contains(" my_host: "), refused.getMessage());
        }

        @Test
        @DisplayName("one's own arrival is told once, however soon one has another name")
        void onesOwnArrivalIsToldOnce() throws Exception {
            try (Engine engine = new Engine(1)) {
                for (int i = 0; i < 200; i++)
                    try (Raw raw = new Raw(engine.chats.get(0).webSocketPort())) {
                        raw.ascii(request("/chat/" + i, PRESENCE)).text("/nick n" + i).text("end");
                        raw.readHead();
                        assertTrue(sentence(raw.line()).isEmpty());
                        assertTrue(sentence(raw.line()).endsWith(" has joined."));
                        assertEquals("you n" + i, raw.line());
                        assertTrue(raw.line().matches("renamed user-\\d+ n" + i), "told again");
                        assertEquals("said n" + i + " end", raw.line());
                    }
            }
        }
    }

    @Nested
    @DisplayName("The command line")
    class CommandLine {
        private static String wrong(String... arguments) {
            return assertThrows(IllegalArgumentException.class,
                    () -> new Chat.Options(arguments)).getMessage();
        }

        @Test
        @DisplayName("without options: loopback, the seed's ports, compression, no trace")
        void theDefaults() {
            var options = new Chat.Options();
            assertEquals("localhost 8080 12345 true false [] null", String.join(" ", options.host,
                    "" + options.httpPort, "" + options.wsPort, "" + options.settings.deflate,
                    "" + options.trace, "" + options.origins, "" + options.settings.tls));
        }

        @ParameterizedTest
        @DisplayName("--flag value and --flag=value are the same")
        @CsvSource({"--host, 127.0.0.1", "--http-port, 1", "--ws-port, 65535", "--max-message, 1",
            "--max-queue, 1073741824", "--max-connections, 7", "--max-per-address, 8",
            "--max-memory, 123456789012345", "--public-url, wss://chat.example/app",
            "--origin, https://chat.example:8443"})
        void bothForms(String name, String value) throws Exception {
            for (String[] form : new String[][] {{name, value}, {name + "=" + value}}) {
                var options = new Chat.Options(form);
                assertEquals(value, String.valueOf(switch (name) {
                    case "--host" -> options.host;
                    case "--http-port" -> options.httpPort;
                    case "--ws-port" -> options.wsPort;
                    case "--max-message" -> options.settings.maxMessage;
                    case "--max-queue" -> options.settings.maxQueue;
                    case "--max-connections" -> options.maxConnections;
                    case "--max-per-address" -> options.maxPerAddress;
                    case "--max-memory" -> options.settings.memory.limit;
                    case "--public-url" -> options.publicUrl;
                    default -> options.origins.iterator().next();
                }));
                assertEquals(Chat.Options.Task.SERVE, options.task);
            }
        }

        @Test
        @DisplayName("--connect is another task, with headers and subprotocols that may repeat")
        void connectIsAnotherTask() {
            var options = new Chat.Options("--connect=wss://chat.example/x?a=b", "--header=A: b=c",
                    "--header", "D: e", "--subprotocol=presence", "--subprotocol", "soap",
                    "--origin=https://chat.example");
            assertEquals(Chat.Options.Task.CONNECT, options.task);
            assertEquals(URI.create("wss://chat.example/x?a=b"), options.connect);
            assertEquals(List.of("A: b=c", "D: e"), options.headers);
            assertEquals(List.of("presence", "soap"), options.subprotocols);
        }

        @Test
        @DisplayName("--max-memory is a quarter of the heap, or what is said; any long will do")
        void memory() {
            long most = Runtime.getRuntime().maxMemory();
            assertEquals(most / 4, new Chat.Options().settings.memory.limit);
            var options = new Chat.Options("--max-memory=" + (1L << 40));
            assertEquals(1L << 40, options.settings.memory.limit);
        }

        @Test
        @DisplayName("the task is known before anything is done: nothing is read from standard input")
        void optionsDoNothing() {
            InputStream usual = System.in;
            try {
                System.setIn(new ByteArrayInputStream(utf8("81 00")));
                var options = new Chat.Options("--explain");
                System.setIn(new ByteArrayInputStream(utf8("82 00")));
                assertEquals("82 00", hex(options.frames()));
            } finally {
                System.setIn(usual);
            }
        }

        @Test
        @DisplayName("options may stand in any order; --origin may stand there more than once")
        void inAnyOrder() {
            var options = new Chat.Options("--trace", "--origin", "http://a", "--no-deflate",
                    "--origin=*", "--http-port=0", "--ws-port", "0");
            assertTrue(options.trace && !options.settings.deflate
                    && options.httpPort + options.wsPort == 0);
            assertEquals(List.of("http://a", "*"), options.origins.stream().map(
                    Chat.Origin::toString).toList());
        }

        @ParameterizedTest
        @DisplayName("a bad value is refused in words that name the option and the value")
        @ValueSource(strings = {"--http-port=65536", "--http-port=-1", "--ws-port=x",
            "--ws-port=1.5", "--ws-port=+1", "--ws-port=٣", "--ws-port=99999999999999999999",
            "--max-message=0", "--max-message=1073741825",
            "--max-message=1k", "--max-queue=0", "--max-queue=-5",
            "--max-memory=0", "--max-memory=x", "--public-url=http://chat.example",
            "--public-url=chat.example", "--public-url=ws://", "--connect=http://chat.example",
            "--connect=ws://a b", "--connect=ws://a:65536", "--connect=ws://a/#x",
            "--header=no colon", "--header=: x", "--redis=redis://a/*",
            "--max-connections=0", "--max-per-address=0", "--origin=chat.example",
            "--origin=https://chat.example/", "--origin=ftp://chat.example", "--origin=https://a b",
            "--origin=https://chat.example?x", "--origin=https://chat.example#x",
            "--origin=https://u@chat.example", "--origin=https://chat.example:0443",
            "--origin=https://chat.example:65536", "--origin=https://chat.example:",
            "--origin=https://*", "--origin=https://a.*.example", "--origin=http://*:8080",
            "--origin=ws://chat.example", "--origin=://a", "--origin=http://", "--origin=tauri://",
            "--origin=http://[::1", "--origin=http://a:b:c", "--origin=https://.a",
            "--keystore=/nowhere/to-be-found.p12"})
        void aBadValueIsRefused(String argument) {
            String[] both = argument.split("=", 2);
            for (String message : List.of(wrong(argument), wrong(both))) {
                assertTrue(message.contains(both[0]), message);
                assertTrue(message.contains(both[1]), message);
            }
        }

        @ParameterizedTest
        @DisplayName("what is no option, and an option without its value, is refused and named")
        @ValueSource(strings = {"--foo", "--foo=1", "-h", "help", "--Trace", "--http-port",
            "--origin", "--keystore", "---", "--http_port=1", "8080"})
        void whatIsNoOptionIsRefused(String argument) {
            for (String message : List.of(wrong(argument), wrong("--trace", argument)))
                assertTrue(message.contains(argument.split("=")[0]), message);
        }

        @ParameterizedTest
        @DisplayName("an origin is taken in the form in which browsers send it")
        @CsvSource({"https://chat.example:443, https://chat.example",
            "HTTP://Chat.Example:80, http://chat.example",
            "https://chat.example:80, https://chat.example:80",
            "https://b\u00fccher.example, https://xn--bcher-kva.example",
            "https://chat.example., https://chat.example",
            "https://*.Chat.example:8443, https://*.chat.example:8443",
            "http://[0:0:0:0:0:0:0:1]:8080, http://[::1]:8080",
            "http://[2001:DB8:0:0:1:0:0:0], http://[2001:db8:0:0:1::]",
            "http://[::ffff:192.0.2.1], http://192.0.2.1", "null, null", "*, *", "file://, file://",
            "capacitor://localhost, capacitor://localhost", "tauri://localhost, tauri://localhost",
            "chrome-extension://abcdefghij, chrome-extension://abcdefghij"})
        void originsHaveOneForm(String given, String expected) {
            assertEquals(expected, new Chat.Options("--origin=" + given).origins.iterator().next()
                    .toString());
        }

        @ParameterizedTest
        @DisplayName("a host is taken in the form in which browsers send it")
        @CsvSource({"LOCALHOST, localhost", "Box.Local, box.local", "box., box", "::1, [::1]",
            "[::1], [::1]", "0:0:0:0:0:0:0:1, [::1]", "::ffff:127.0.0.1, 127.0.0.1", "::, [::]",
            "fe80:0:0:0:1:0:0:2, [fe80::1:0:0:2]", "b\u00fccher, xn--bcher-kva", "0.0.0.0, 0.0.0.0"})
        void hostsHaveOneForm(String given, String expected) {
            assertEquals(expected, new Chat.Options("--host=" + given).host);
        }

        @Test
        @DisplayName("--max-per-address counts a network of IPv6 (/64), as that is what one person has")
        void networks() throws Exception {
            for (String[] pair : new String[][] {{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
                {"192.0.2.7", "192.0.2.7"}, {"::ffff:192.0.2.7", "192.0.2.7"}})
                assertEquals(InetAddress.getByName(pair[1]),
                        Chat.Ports.network(InetAddress.getByName(pair[0])));
        }

        @Test
        @DisplayName("--help names every option that there is, and no other")
        void helpIsComplete() throws Exception {
            var named = new TreeSet<String>();
            Matcher option = Pattern.compile("--[a-z-]+").matcher(Chat.Options.USAGE);
            while (option.find()) named.add(option.group());
            var known = new TreeSet<String>();
            Matcher cases = Pattern.compile("case \"(--[a-z-]+)\"").matcher(
                    Files.readString(FOLDER.resolve("Chat.java")));
            while (cases.find()) known.add(cases.group(1));
            assertEquals(known, named);
            assertTrue(known.size() >= 13, known.toString());
        }

        @Test
        @DisplayName("--help names the defaults and the fixed limits")
        void helpNamesTheLimits() {
            var options = new Chat.Options();
            for (int value : new int[] {options.httpPort, options.wsPort,
                    options.settings.maxMessage, options.settings.maxQueue,
                    options.maxConnections, options.maxPerAddress})
                assertTrue(Chat.Options.USAGE.contains("(" + value + ")"), "" + value);
            for (String fixed : List.of(Chat.WebSocket.HANDSHAKE_TIME + " s",
                    Chat.WebSocket.MAX_HEAD / 1024 + " KiB",
                    Chat.WebSocket.MAX_HEADERS + " headers", Chat.WebSocket.SILENCE + " s",
                    2 * Chat.WebSocket.SILENCE + " s",
                    Chat.WebSocket.CLOSE_TIME + " s", Chat.Rooms.MAX_ROOMS + " rooms"))
                assertTrue(Chat.Options.USAGE.contains(fixed), fixed);
        }

        // -- As a process --

        @ParameterizedTest
        @DisplayName("bad usage: message and usage on stderr, nothing on stdout, exit 2")
        @ValueSource(strings = {"--foo", "--http-port=abc", "--explain=8"})
        void badUsageExitsWith2(String argument) throws Exception {
            try (Program program = Program.chat(argument)) {
                assertEquals(2, program.exit());
                assertEquals("[]", program.out.toString());
                String first = program.err.remove();
                assertTrue(first.startsWith("Chat.java: ") && first.contains(
                        argument.split("=")[0]), first);
                assertEquals(Chat.Options.USAGE, String.join("\n", program.err));
            }
        }

        @Test
        @DisplayName("--help and --version are answered on stdout, exit 0, and nothing is started")
        void helpAndVersionExitWith0() throws Exception {
            for (String argument : List.of("--help", "--version"))
                try (Program program = Program.chat(argument)) {
                    assertEquals(0, program.exit());
                    assertEquals("[]", program.err.toString());
                    assertEquals(argument.equals("--help") ? Chat.Options.USAGE : "Chat.java "
                            + Chat.VERSION + ", Java " + System.getProperty("java.runtime.version"),
                            String.join("\n", program.out));
                }
        }

        @Test
        @DisplayName("one line on stdout names both addresses as they are; the rest is on stderr")
        void oneLineNamesBothAddresses() throws Exception {
            try (Program program = Program.chat("--trace")) {
                Program.Ready line = program.ready();
                var page = URI.create(line.page()).toURL().openConnection();
                try (var in = page.getInputStream()) {
                    assertTrue(new String(in.readAllBytes(), StandardCharsets.UTF_8)
                            .contains(String.valueOf(line.webSocketPort())),
                            "the page does not know the port");
                }
                assertEquals("ws://localhost:" + line.webSocketPort() + "/", line.webSockets());
                try (Raw raw = new Raw(line.webSocketPort()).shakeHands("/echo")) {
                    assertEquals("hello", raw.text("hello").line());
                    raw.hex("83 80").assertClosed(1002);
                }
                program.terminate();                            // SIGTERM
                assertEquals(143, program.exit());
                assertEquals("[]", program.out.toString());
                assertTrue(program.err.size() > 10, program.err.toString());
            }
        }

        @Test
        @DisplayName("without --trace a connection leaves no line anywhere when all is well")
        void withoutTraceItIsQuiet() throws Exception {
            try (Program program = Program.chat()) {
                int port = program.ready().webSocketPort();
                try (Raw raw = new Raw(port).shakeHands("/")) {
                    raw.text("hello").line();
                    raw.bye();
                }
                try (Raw raw = new Raw(port).shakeHands("/chat")) {
                    raw.text("\u001b[2J\nhello").line();              // and goes without a Close
                }
                program.terminate();
                assertEquals(143, program.exit());
                assertEquals("[] []", program.out + " " + program.err);
            }
        }

        @ParameterizedTest
        @DisplayName("a port in use: one line names the port and the option, exit 1")
        @ValueSource(strings = {"--http-port", "--ws-port"})
        void aPortInUseExitsWith1(String option) throws Exception {
            try (var taken = new ServerSocket(0, 1, InetAddress.getByName("localhost"));
                    Program program = Program.chat(option + "=" + taken.getLocalPort())) {
                assertEquals(1, program.exit());
                assertEquals("[]", program.out.toString());
                assertEquals(1, program.err.size(), program.err.toString());
                String line = program.err.element();
                for (String part : List.of("Chat.java: ", option, "" + taken.getLocalPort()))
                    assertTrue(line.contains(part), line);
            }
        }

        @Test
        @DisplayName("an address that can't be had: one line names it, exit 1")
        void anAddressThatCanNotBeHadExitsWith1() throws Exception {
            for (String host : List.of("192.0.2.1", "no-such-host.invalid"))
                try (Program program = Program.chat("--host", host)) {
                    assertEquals(1, program.exit());
                    assertEquals("[]", program.out.toString());
                    assertEquals(1, program.err.size(), program.err.toString());
                    String line = program.err.element();
                    assertTrue(line.contains("--host") && line.contains(host), line);
                    assertFalse(line.contains("another port"), line);     // it would not help
                    assertEquals(host.contains("no"), line.contains("can't be resolved"), line);
                }
        }

        /// Skips a test where this machine has no IPv6.
        private static InetAddress six() throws Exception {
            InetAddress six = InetAddress.getByName("::1");
            assumeTrue(NetworkInterface.getByInetAddress(six) != null, "there is no [::1] here");
            return six;
        }

        @Test
        @DisplayName("localhost is 127.0.0.1 and [::1], with the same ports, for both ports")
        void localhostIsAllLoopback() throws Exception {
            InetAddress six = six();
            try (Chat chat = chat()) {
                for (InetAddress address : List.of(six, InetAddress.getByName("127.0.0.1"))) {
                    try (Raw raw = new Raw(new Socket(address, chat.webSocketPort()))) {
                        assertEquals("Hello", raw.shakeHands("/echo").text("Hello").line());
                    }
                    try (Raw raw = new Raw(new Socket(address, chat.httpPort()))) {
                        raw.ascii("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                        assertTrue(raw.readHead().startsWith("HTTP/1.1 200 "));
                    }
                }
            }
        }

        @ParameterizedTest
        @DisplayName("who has a port at [::1] only keeps it, and nothing is left of the start")
        @ValueSource(strings = {"--http-port", "--ws-port"})
        void aPortInUseAtOneAddress(String option) throws Exception {
            try (var taken = new ServerSocket(0, 1, six())) {
                int port = taken.getLocalPort(), files = 0;
                for (int i = 0; i < 12; i++) {
                    var chat = new Chat(new Chat.Options("--http-port=0", "--ws-port=0", option, ""
                            + port));
                    String why = assertThrows(IOException.class, chat::start).getMessage();
                    assertTrue(why.contains(option + " " + port), why);
                    new ServerSocket(port, 1, InetAddress.getByName("127.0.0.1")).close();
                    if (i == 1) files = openFiles();
                }
                int before = files;
                eventually(true, () -> openFiles() <= before);
                eventually(0, () -> serverThreads().size());
            }
        }

        @Test
        @DisplayName("both ports are on the loopback address only, unless --host says otherwise")
        void onlyTheLoopbackAddressListens() throws Exception {
            InetAddress other = otherAddress();
            try (Chat local = chat(); Chat wide = chat("--host=0.0.0.0")) {
                for (int port : new int[] {local.httpPort(), local.webSocketPort()})
                    assertThrows(ConnectException.class, () -> new Socket(other, port).close());
                for (int port : new int[] {wide.httpPort(), wide.webSocketPort()})
                    new Socket(other, port).close();
            }
        }
    }

    // ---- Anybody's machine: locales, folders, flags, containers ------------------------------

    @Nested
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    @DisplayName("Anybody's machine")
    class Machine {
        private final List<String> withoutLocale = List.of("env", "-u", "LANG", "-u", "LC_CTYPE",
                "LC_ALL=C");
        private Path cache;

        /// The classes under test, under what is given before, with all that the JVM finds out.
        private static Program java(List<String> before, String... arguments) throws Exception {
            var code = Chat.class.getProtectionDomain().getCodeSource().getLocation().toURI();
            return new Program(FOLDER, Stream.of(before, List.of(JAVA, "-cp",
                    Path.of(code).toString(), "Chat"), List.of(arguments)).flatMap(List::stream)
                    .toArray(String[]::new));
        }

        private static String out(Program program) throws Exception {
            try (program) {
                program.process.waitFor(10 * PATIENCE, TimeUnit.SECONDS);   // it may compile first
                assertEquals("0 []", program.exit() + " " + program.err);
                return String.join("\n", program.out);
            }
        }

        @Test
        @DisplayName("without a locale all is ASCII that can be read")
        void withoutLocale() throws Exception {
            String text = "Grüße, 𝄞";
            String[] frame = {"--explain", hex(masked(0x81, utf8(text)))};
            String plain = out(java(withoutLocale, frame));
            assertTrue(plain.contains("(section 5.6)"), plain);
            assertTrue(plain.contains("Gr\\u{fc}\\u{df}e, \\u{1d11e}"), plain);
            assertTrue(plain.contains("...") && !plain.contains("?"), plain);
            String full = out(java(List.of("env", "LC_ALL=C.UTF-8"), frame));
            assertTrue(full.contains("(§5.6)") && full.contains(text), full);
            try (Program program = java(withoutLocale, "--http-port=0", "--ws-port=0")) {
                try (Raw raw = new Raw(program.ready().webSocketPort())) {
                    raw.ascii("GET / HTTP/1.1\r\n\r\n").readAll();
                }
                String line = program.next(program.err);
                assertTrue(line.contains("(section 4.2.1)"), line);
            }
        }

        @Test
        @DisplayName("digits are 0 to 9 in every country")
        void digits() throws Exception {
            String frame = "818537fa213d7f9f4d5158";
            try (Program program = Program.under(List.of("env", "JDK_JAVA_OPTIONS="
                    + "-Duser.language=ar -Duser.country=EG"), "--explain", frame)) {
                assertEquals(0, program.exit());
                String all = String.join("\n", program.out);
                assertTrue(all.contains("FIN=1") && all.contains("5 bytes"), all);
            }
        }

        @Test
        @DisplayName("what others hear is no longer than 1 MiB, which is all that many clients take")
        void nobodyHearsMoreThanTheyTake() throws Exception {
            int most = 1 << 20;
            try (Chat chat = chat()) {
                for (String breaks : List.of("", "\n".repeat(2000), "\r".repeat(2000)))
                    try (Raw ada = Raw.open(chat, "/chat/long"); Raw bob = Raw.open(chat,
                            "/chat/long", PRESENCE)) {
                        int fits = most - 128 - 2 * breaks.length();
                        String name = "𐐨".repeat(24);                   // 96 bytes
                        ada.text("/nick " + name).text(breaks + "x".repeat(fits));
                        for (Raw each : List.of(ada, bob)) {
                            String line = each.line();
                            while (line.length() < fits) line = each.line();
                            assertTrue(line.contains(name), "not under this name");
                            assertTrue(utf8(line).length <= most, "" + utf8(line).length);
                        }
                        ada.text(breaks + "x".repeat(fits + 1)).assertClosed(1009);
                    }
            }
        }

        // -- ./run.sh --

        /// The project in a folder of its own; all of them have one cache.
        private Path project(String name) throws IOException {
            if (cache == null) cache = temporary();
            Path folder = temporary().resolve(name);
            Files.createDirectories(folder);
            for (String file : List.of("Chat.java", "run.sh"))
                Files.copy(FOLDER.resolve(file), folder.resolve(file),
                        StandardCopyOption.COPY_ATTRIBUTES);
            return folder;
        }

        /// The same, but no archive is trained, which takes long.
        private Path quickProject(String name) throws IOException {
            Path folder = project(name), script = folder.resolve("run.sh");
            String training = "\"$jdk/bin/java\" -XX:TieredStopAtLevel=1 -cp", text =
                    Files.readString(script);
            assertTrue(text.contains(training), "how is the archive trained now?");
            Files.writeString(script, text.replace(training, ": " + training));
            return folder;
        }

        private Program run(Path folder, List<String> before, String... options)
                throws IOException {
            return new Program(folder, Stream.of(List.of("env", "JAVA_HOME="
                    + System.getProperty("java.home"), "XDG_CACHE_HOME=" + cache), before,
                    List.of("./run.sh"), List.of(options)).flatMap(List::stream)
                    .toArray(String[]::new));
        }

        /// What the cache holds of whole makings.
        private List<Path> made() throws IOException {
            try (var files = Files.walk(cache)) {
                return files.filter(file -> file.endsWith("jdk")).map(Path::getParent).toList();
            }
        }

        @Test
        @DisplayName("./run.sh: flags that the user has for all JVMs win, and it starts")
        void flagsOfTheUser() throws Exception {
            Path folder = project("flags");
            for (String flags : List.of("-XX:+UseG1GC", "-XX:+UseParallelGC", "-Xmx16m",
                    "--add-opens=java.base/java.lang=ALL-UNNAMED",
                    "-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=127.0.0.1:0",
                    "-Dx=y"))
                for (String variable : List.of("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"))
                    try (Program program = new Program(folder, "env", "JAVA_HOME="
                            + System.getProperty("java.home"), "XDG_CACHE_HOME=" + cache,
                            variable + "=" + flags, "./run.sh", "--http-port=0", "--ws-port=0")) {
                        String line = program.next(program.out);
                        while (line.startsWith("Listening for")) line = program.next(program.out);
                        assertTrue(Program.LINE.matcher(line).matches(), line);
                        for (String note : program.err)
                            assertTrue(note.contains("Picked up"), note);
                        if (Files.exists(Path.of("/proc/self/cmdline"))) {
                            String own = Files.readString(Path.of("/proc", ""
                                    + program.process.pid(), "cmdline"));
                            assertEquals(flags.startsWith("-D"), own.contains("SerialGC"), own);
                            assertTrue(own.contains("-XX:+ExitOnOutOfMemoryError"), own);
                        }
                    }
        }

        @Test
        @DisplayName("./run.sh: a damaged archive is not used, but made anew")
        void aDamagedArchive() throws Exception {
            Path folder = project("damaged");
            out(run(folder, List.of(), "--version"));
            for (Path each : made())
                if (Files.exists(each.resolve("archive")))
                    Files.write(each.resolve("archive"), new byte[0]);
            int before = made().size();
            out(run(folder, List.of(), "--version"));
            assertEquals(before + 1, made().size());
        }

        @Test
        @DisplayName("./run.sh: what is damaged in the cache, or was moved with it, is made anew")
        void aDamagedCache() throws Exception {
            Path folder = quickProject("damaged");
            out(run(folder, List.of(), "--version"));
            int whole = made().size();
            for (Path each : made())
                if (!Files.exists(each.resolve("archive"))) Files.write(each.resolve("chat.jar"),
                        new byte[0]);
            out(run(folder, List.of(), "--version"));
            assertEquals(whole + 1, made().size());
            Path old = cache;
            cache = old.resolveSibling(old.getFileName() + "-moved");
            Files.move(old, cache);
            int before = made().size();
            out(run(folder, List.of(), "--version"));
            assertEquals(before + 1, made().size());
            out(run(folder, List.of(), "--version"));
            assertEquals(before + 1, made().size());
            Files.move(cache, old);
            cache = old;
        }

        @Test
        @DisplayName("./run.sh: a path may hold any letters, without a locale too, and colons")
        void anyPath() throws Exception {
            Path folder = quickProject("Größe: 大");
            Path usual = cache;
            for (String name : List.of("usual", "ä b", "a:b"))
                try {
                    cache = usual.resolve(name);
                    try (Program program = run(folder, withoutLocale, "--version")) {
                        program.process.waitFor(10 * PATIENCE, TimeUnit.SECONDS);
                        assertEquals(0, program.exit());
                        assertTrue(program.out.element().startsWith("Chat.java "));
                        assertEquals(name.equals("a:b") ? 1 : 0, program.err.size(),
                                program.err::toString);
                    }
                } finally {
                    cache = usual;
                }
        }

        @Test
        @DisplayName("./run.sh: an old JDK is no reason to fail if there is another; else it is told")
        void anOldJdk() throws Exception {
            Path folder = quickProject("old"), old = temporary();
            Files.createDirectories(old.resolve("bin"));
            Files.writeString(old.resolve("release"), "JAVA_VERSION=\"17.0.1\"\n");
            Files.writeString(old.resolve("bin/javac"), "#!/bin/sh\nexit 1\n");
            assertTrue(old.resolve("bin/javac").toFile().setExecutable(true));
            try (Program program = new Program(folder, "env", "JAVA_HOME=" + old, "PATH="
                    + Path.of(JAVA).getParent() + ":" + System.getenv("PATH"), "XDG_CACHE_HOME="
                    + cache, "./run.sh", "--version")) {
                program.process.waitFor(10 * PATIENCE, TimeUnit.SECONDS);
                assertEquals("0 []", program.exit() + " " + program.err);
            }
        }

        // -- Containers and services, as the README has them --

        @Test
        @DisplayName("as process 1, as nobody, with nothing in the environment, on a read-only disk")
        void asProcess1() throws Exception {
            assumeInstalled("unshare", "setpriv");
            assumeTrue(new ProcessBuilder("unshare", "-pmf", "true").start().waitFor() == 0,
                    "this user can't unshare");
            Path classes = temporary();
            assertEquals(0, new ProcessBuilder(Path.of(JAVA).resolveSibling("javac").toString(),
                    "-d", classes.toString(), FOLDER.resolve("Chat.java").toString()).inheritIO()
                    .start().waitFor());
            assertTrue(classes.toFile().setExecutable(true, false)
                    && classes.toFile().setReadable(true, false));
            try (Program program = new Program(FOLDER, "unshare", "-pmf", "sh", "-c",
                    "mount --bind / / && mount -o remount,bind,ro / && exec setpriv --reuid 65534 "
                    + "--regid 65534 --clear-groups env -i \"$@\"", "sh", JAVA,
                    "-XX:+ExitOnOutOfMemoryError", "-cp", classes.toString(), "Chat",
                    "--host=0.0.0.0", "--http-port=0", "--ws-port=0")) {
                int port = program.ready().webSocketPort();
                ProcessHandle one = program.process.children().findFirst().orElseThrow();
                try (Raw ada = new Raw(port).shakeHands("/echo")) {
                    assertEquals("Hello", ada.text("Hello").line());
                    one.destroy();                                          // SIGTERM
                    assertEquals(1001, ada.frame().code());
                    ada.frame(0x88, bytes("03 e9")).assertEnd();
                }
                assertEquals(143, program.exit());
            }
        }
    }

    // ---- The page's port, which the JDK's server has, and the limits that it is given ---------

    @Nested
    @DisplayName("The page's port has limits, too")
    class PagePort extends Served {
        static final String GET = "GET /chat HTTP/1.1\r\nHost: localhost\r\n\r\n";

        PagePort() { super("--trace"); }

        private static void ask(Raw raw, String request) throws IOException {
            String head = raw.ascii(request).readHead();
            assertTrue(head.startsWith("HTTP/1.1 200 "), head);
            Matcher length = Pattern.compile("(?i)Content-Length: (\\d+)").matcher(head);
            assertTrue(length.find(), head);
            raw.read(Integer.parseInt(length.group(1)));
        }

        @Test
        @SuppressWarnings("unchecked")
        @DisplayName("whoever asks for many pages and reads none is given up; the wire goes on")
        void whoReadsNothingIsGivenUp() throws Exception {
            var deadlines = (Map<?, Future<?>>) field(Chat.Ports.class, "deadlines").get(
                    field(Chat.class, "ports").get(chat));
            try (Raw watcher = new Raw(chat.httpPort()); var socket = new Socket()) {
                watcher.ascii("GET /trace HTTP/1.1\r\nHost: localhost:" + chat.httpPort()
                        + "\r\nConnection: keep-alive\r\n\r\n").readHead();
                socket.setReceiveBufferSize(4096);
                socket.connect(new InetSocketAddress("localhost", chat.httpPort()));
                var asking = Thread.startVirtualThread(() -> {
                    try {
                        for (int i = 0; i < 3000; i++) socket.getOutputStream().write(utf8(GET));
                    } catch (IOException givenUp) {
                        return;
                    }
                });
                eventually(1L, () -> {                          // one has come to a standstill
                    var before = Set.copyOf(deadlines.values());
                    Thread.sleep(300);
                    return deadlines.values().stream().filter(each -> !each.isDone()
                            && before.contains(each)).count();
                });
                for (var each : deadlines.values())
                    if (!each.isDone()) assertNull(        // which means: it was carried out
                            each.get(Chat.Ports.PAGE_TIME + PATIENCE, TimeUnit.SECONDS));
                eventually(1, deadlines::size);                 // only the wire's is left
                assertTrue(asking.join(Duration.ofSeconds(PATIENCE)));
                try (Raw ada = Raw.open(chat, "/echo")) {
                    ada.text("still here");
                    var lines = new BufferedReader(new InputStreamReader(watcher.in, "UTF-8"));
                    String line = "";
                    while (!line.contains("still here")) line = lines.readLine();
                }
            }
        }

        @Test
        @DisplayName("a request may come in two parts, some seconds apart: the limit is not in ms")
        void aSlowRequestIsServed() throws Exception {
            try (Raw raw = new Raw(chat.httpPort())) {
                raw.ascii(GET.substring(0, 20));
                Thread.sleep(2500);             // the JDK's server looks once a second
                ask(raw, GET.substring(20));
            }
        }

        @Test
        @DisplayName("the next page of a connection comes as fast as that of a new one (no Nagle)")
        void theNextPageIsFast() throws Exception {
            int count = 20;
            for (int attempt = 1; ; attempt++) {
                long start = System.nanoTime();
                for (int i = 0; i < count; i++)
                    try (Raw raw = new Raw(chat.httpPort())) {
                        ask(raw, GET);
                    }
                long fresh = System.nanoTime() - start;
                try (Raw raw = new Raw(chat.httpPort())) {
                    ask(raw, GET);
                    start = System.nanoTime();
                    for (int i = 0; i < count; i++) ask(raw, GET);
                }
                long again = System.nanoTime() - start;     // else 40 ms each, by delayed ACKs
                if (again < fresh * 2) return;
                assertTrue(attempt < 5, again + " ns after " + fresh);
            }
        }

        @Test
        @DisplayName("more than 1000 connections are not taken, and all are served that are")
        void thereIsALimitForAll() throws Exception {
            var all = new ArrayList<Raw>();
            try (Program program = Program.chat()) {
                int port = program.ready().httpPort();
                for (int i = 0; i < 1001; i++) all.add(new Raw(port));
                try {
                    assertEquals("", all.getLast().ascii(GET).readAll());
                } catch (SocketException reset) {
                    // this is no answer either
                }
                ask(all.get(999), GET);
            } finally {
                for (Raw raw : all) raw.close();
            }
        }

        @Test
        @DisplayName("no file descriptors at the first connection: with some again, all is well")
        void noDescriptorsAtTheBeginning() throws Exception {
            assumeInstalled("prlimit");
            assumeTrue(new File("/proc/self/fd").exists(), "only a Linux tells of descriptors");
            Path jar = temporary().resolve("chat.jar");         // which is open once and for all
            Path classes = Path.of(Chat.class.getProtectionDomain().getCodeSource().getLocation()
                    .toURI());
            assertEquals(0, new ProcessBuilder(Path.of(JAVA).resolveSibling("jar").toString(),
                    "-cf", jar.toString(), "-C", classes.toString(), ".").start().waitFor());
            try (Program program = new Program(FOLDER, JAVA, "-cp", jar.toString(), "Chat",
                    "--http-port=0", "--ws-port=0")) {
                int port = program.ready().webSocketPort();
                int free = 0;
                while (Files.exists(Path.of("/proc", "" + program.process.pid(), "fd", "" + free),
                        LinkOption.NOFOLLOW_LINKS)) free++;
                limit(program, free + 1);                       // one more, and there is none
                try (Raw first = new Raw(port); Raw second = new Raw(port)) {
                    first.ascii(request("/echo"));
                    while (!program.next(program.err).contains("can't accept")) continue;
                    limit(program, 1000);
                    for (Raw raw : List.of(first, second, new Raw(port))) {
                        if (raw == first) raw.readHead();
                        else raw.shakeHands("/echo");
                        assertEquals("Hello", raw.text("Hello").line());
                    }
                }
            }
        }

        private static void limit(Program program, int files) throws Exception {
            assertEquals(0, new ProcessBuilder("prlimit", "--pid", "" + program.process.pid(),
                    "--nofile=" + files + ":").start().waitFor());
        }
    }

    // ---- The page, over HTTP ------------------------------------------------------------------

    /// What the HTTP port answers, before any script runs.
    @Nested
    @DisplayName("The page over HTTP")
    class PageHttp extends Served {
        private final HttpClient client = HttpClient.newHttpClient();

        private HttpResponse<String> ask(String method, String path) throws Exception {
            URI address = URI.create("http://localhost:" + chat.httpPort() + path);
            return client.sendAsync(HttpRequest.newBuilder(address)
                    .method(method, HttpRequest.BodyPublishers.noBody()).build(),
                    HttpResponse.BodyHandlers.ofString()).get(PATIENCE, TimeUnit.SECONDS);
        }

        /// Sends these header lines, all of them and no others, and returns the whole answer.
        private String raw(Chat chat, String line, String... headers) throws Exception {
            try (Raw raw = new Raw(chat.httpPort())) {
                return raw.ascii(line + "\r\n" + Stream.of(headers).map(header -> header + "\r\n")
                        .collect(Collectors.joining()) + "Connection: close\r\n\r\n").readAll();
            }
        }

        private static String header(HttpResponse<?> response, String name) {
            List<String> values = response.headers().allValues(name);
            assertEquals(1, values.size(), name);
            return values.get(0);
        }

        @Test void theSamePageIsAtTheRootAtChatAndInEachRoom() throws Exception {
            for (String path : List.of("/", "/chat", "/chat/lobby", "/chat/tea", "/chat/a-b_9",
                    "/chat/%D7%90", "/chat/%f0%a0%80%80", "/chat/" + "x".repeat(64), "/?query",
                    "/chat/tea?a=b")) {
                var page = ask("GET", path);
                assertEquals(200, page.statusCode(), path);
                assertTrue(page.body().startsWith("<!DOCTYPE html>"), path);
                assertEquals(-1, page.body().indexOf("{{"), "a placeholder was left");
                assertTrue(page.body().contains("id=\"chat-echo-area\"")
                        && page.body().contains("id=\"chat-input\""), path);
            }
        }

        @Test void itsHeadersSayWhatItIsAndWhatItMayDo() throws Exception {
            var page = ask("GET", "/chat/tea");
            assertEquals("text/html; charset=utf-8", header(page, "Content-Type"));
            assertEquals("" + utf8(page.body()).length, header(page, "Content-Length"));
            assertEquals("nosniff", header(page, "X-Content-Type-Options"));
            assertEquals("no-referrer", header(page, "Referrer-Policy"));
            assertEquals("no-store", header(page, "Cache-Control"));
            String policy = header(page, "Content-Security-Policy");
            Matcher nonce = Pattern.compile("script-src 'nonce-([^']+)'").matcher(policy);
            assertTrue(nonce.find(), policy);
            assertEquals(("default-src 'none'; script-src 'nonce-%1$s'; style-src 'nonce-%1$s'; "
                    + "connect-src 'self' ws://*:%2$d; img-src data:; base-uri 'none'; "
                    + "form-action 'none'; frame-ancestors 'none'").formatted(
                    nonce.group(1), chat.webSocketPort()), policy);
            String attribute = " nonce=\"" + nonce.group(1) + "\">";
            assertTrue(page.body().contains("<style" + attribute), "the style's nonce");
            assertTrue(page.body().contains("<script type=\"module\"" + attribute), "the script's nonce");
            assertNotEquals(policy, header(ask("GET", "/chat/tea"), "Content-Security-Policy"));
        }

        @Test void headIsGetWithoutTheBody() throws Exception {
            var get = ask("GET", "/");
            var head = ask("HEAD", "/");
            assertEquals(200, head.statusCode());
            assertEquals("", head.body());
            for (String name : List.of("Content-Type", "Content-Length", "X-Content-Type-Options",
                    "Referrer-Policy", "Cache-Control"))
                assertEquals(header(get, name), header(head, name), name);
            assertEquals(404, ask("HEAD", "/no").statusCode());
            assertEquals("", ask("HEAD", "/no").body());
        }

        @Test void aConnectionServesOneRequestAfterAnother() throws Exception {
            String request = " /chat HTTP/1.1\r\nHost: localhost\r\n\r\n";
            try (Raw raw = new Raw(chat.httpPort())) {
                for (String method : List.of("GET", "HEAD", "POST", "HEAD", "GET")) {
                    String head = raw.ascii(method + request).readHead();
                    assertTrue(head.startsWith("HTTP/1.1 " + (method.equals("POST") ? 405 : 200)),
                            head);
                    Matcher length = Pattern.compile("(?i)Content-Length: (\\d+)").matcher(head);
                    assertTrue(length.find(), head);
                    if (!method.equals("HEAD")) raw.read(Integer.parseInt(length.group(1)));
                }
            }
        }

        @Test void otherMethodsAreRefusedWithTheOnesThatWork() throws Exception {
            for (String method : List.of("POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO")) {
                var answer = ask(method, "/chat/tea");
                assertEquals(405, answer.statusCode(), method);
                assertEquals("GET, HEAD", header(answer, "Allow"));
                assertEquals("text/plain; charset=utf-8", header(answer, "Content-Type"));
                assertFalse(answer.body().isBlank());
            }
        }

        @Test void otherPathsAreNotFound() throws Exception {
            for (String path : List.of("/index.html", "/favicon.ico", "/echo", "/chatter", "/CHAT",
                    "/chat/a/b", "/chat/a%2Fb", "/chat/..%2f", "/chat/a.b", "/chat/a%20b",
                    "/chat/%3Cb%3E", "/chat/%E2%80%AE", "/chat/%00", "/chat/%ff", "/chat/%C0%80",
                    "/chat/" + "x".repeat(65), "/trace")) {
                var answer = ask("GET", path);
                assertEquals(404, answer.statusCode(), path);
                assertEquals("text/html; charset=utf-8", header(answer, "Content-Type"), path);
                assertEquals("nosniff", header(answer, "X-Content-Type-Options"), path);
                assertEquals("default-src 'none'", header(answer, "Content-Security-Policy"));
                assertEquals("" + utf8(answer.body()).length, header(answer, "Content-Length"),
                        path);
                assertFalse(answer.body().contains("localhost"), "the inner address");
                assertTrue(answer.body().contains("1 to 64\nletters, digits, - or _."), "the rule");
                Matcher link = Pattern.compile("<a href=\"([^\"]+)\">").matcher(answer.body());
                assertTrue(link.find(), answer.body());
                assertEquals("/", answer.uri().resolve(link.group(1)).getPath(), path);
            }
            assertEquals(404, ask("POST", "/no").statusCode());
            for (String path : List.of("//", "//chat", "/chat//tea", "/./chat", "/chat/../chat",
                    "*"))
                assertStatus("40[04]", raw(chat, "GET " + path + " HTTP/1.1", "Host: localhost"),
                        path);
        }

        @Test void aSlashTooManyLeadsToTheRoomAlsoBehindAPrefix() throws Exception {
            var client = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.ALWAYS).build();
            for (String room : List.of("/chat", "/chat/tea", "/chat/%D7%90")) {
                var answer = ask("GET", room + "/");
                assertEquals(308, answer.statusCode(), room);
                URI outside = URI.create("http://chat.example/some/prefix" + room + "/");
                assertEquals(room, outside.resolve(header(answer, "Location")).getRawPath()
                        .replace("/some/prefix", ""));
                var page = client.send(HttpRequest.newBuilder(answer.uri()).build(),
                        HttpResponse.BodyHandlers.ofString());
                assertEquals("200 " + room, page.statusCode() + " " + page.uri().getRawPath());
            }
        }

        @Test void onlyItsOwnNamesAreAnsweredOnLoopback() throws Exception {
            String get = "GET /chat HTTP/1.1";
            for (String host : List.of("localhost", "LocalHost", "127.0.0.1", "[::1]"))
                for (String port : List.of("", ":" + chat.httpPort(), ":9999"))
                    assertStatus("200", raw(chat, get, "Host: " + host + port), host + port);
            for (String host : List.of("evil.example", "evil.example:" + chat.httpPort(), "", ":80",
                    "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example",
                    "localhost@evil.example", "10.0.0.1"))
                assertStatus("403", raw(chat, get, "Host: " + host), host);
            assertStatus("40[03]", raw(chat, get), "no Host");
            // RFC 9112 §3.2: two are one too many
            assertStatus("40[03]", raw(chat, get, "Host: localhost", "Host: evil.example"), "two");
            assertStatus("40[03]", raw(chat, get, "Host: evil.example", "Host: localhost"), "two");
        }

        private static void assertStatus(String expected, String answer, String message) {
            assertTrue(answer.matches("(?s)HTTP/1.1 " + expected + " .*"), () -> message + ": "
                    + answer.lines().findFirst());
        }

        @Test void thePolicyAllowsThePortAtAnyHostAsAProxyMayHideIt() throws Exception {
            try (Chat behind = chat("--origin=https://chat.example")) {
                for (String host : List.of("chat.example", "localhost:" + behind.httpPort(),
                        "127.0.0.1", "[::1]:" + behind.httpPort())) {
                    String answer = raw(behind, "GET /chat HTTP/1.1", "Host: " + host);
                    assertTrue(answer.startsWith("HTTP/1.1 200 "), answer);
                    assertTrue(answer.contains("connect-src 'self' ws://*:%d;".formatted(
                            behind.webSocketPort())), answer);
                    assertTrue(answer.contains("'http:" + behind.httpPort() + "'")
                            && answer.contains("':" + behind.webSocketPort() + "'"),
                            "the page learns both ports");
                }
            }
        }

        @Test void aPublicUrlIsWhatThePageDials() throws Exception {
            try (Chat behind = chat("--public-url=wss://chat.example:8443/inner/")) {
                String answer = raw(behind, "GET /chat/tea HTTP/1.1", "Host: localhost");
                assertTrue(answer.contains("'wss://chat.example:8443/inner/chat/tea'"), answer);
                assertTrue(answer.contains("connect-src 'self' wss:;"), answer);
            }
        }

        @Test void aWebSocketAtThePagesPortIsToldTheRightOne() throws Exception {
            for (String host : List.of("localhost", "localhost:28001")) {
                String answer = raw(chat, "GET /chat HTTP/1.1", "Host: " + host,
                        "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                        "Sec-WebSocket-Key: " + KEY);
                assertStatus("426", answer, host);
                assertTrue(answer.toLowerCase(Locale.ROOT).contains("\r\nupgrade: websocket"), answer);
                assertTrue(answer.contains("WebSockets are at port " + chat.webSocketPort()), answer);
            }
            assertStatus("403", raw(chat, "GET /chat HTTP/1.1", "Host: evil.example",
                    "Upgrade: websocket"), "another's name");
        }

        @Test void withoutScriptsItSaysSoAndTheTabHasAnIcon() throws Exception {
            String page = ask("GET", "/").body();
            assertTrue(page.contains("<noscript>This chat needs JavaScript.</noscript>"));
            assertTrue(page.contains("<link rel=\"icon\" href=\"data:image/svg+xml,<svg"));
        }

        /// Nothing that browsers of 2023 lack, except where a plain value stands before it.
        @Test void browsersOf2023CanShowIt() throws Exception {
            String page = ask("GET", "/").body();
            for (String young : List.of("light-dark(", "canParse", ":has(", "ariaExpanded",
                    "Object.groupBy", "Promise.withResolvers", "@starting-style", ".findLast"))
                assertFalse(page.contains(young), young);
            assertTrue(page.contains("height: 100vh; height: 100dvh;"));
            assertTrue(page.contains("content: \"● \"; content: \"● \" / \"\";"));
        }

        /// The headers of a browser at this machine, with nothing between.
        private static String near(Chat chat, String... more) {
            return String.join("\r\n", Stream.concat(Stream.of("Host: localhost:" + chat.httpPort(),
                    "Connection: keep-alive"), Stream.of(more)).toList()) + "\r\n";
        }

        /// The status and the body of an answer that has a length.
        private static String answer(Chat chat, String request, String headers, String body)
                throws Exception {
            try (Raw raw = new Raw(chat.httpPort())) {
                String head = raw.ascii(request + " HTTP/1.1\r\n" + headers + "Content-Length: "
                        + body.length() + "\r\n\r\n" + body).readHead();
                Matcher length = Pattern.compile("(?i)Content-Length: (\\d+)").matcher(head);
                int count = length.find() ? Integer.parseInt(length.group(1)) : 0;
                return head.split(" ")[1] + " " + new String(raw.read(count), "UTF-8");
            }
        }

        private static void assertStarts(String start, String answer, String message) {
            assertTrue(answer.startsWith(start), () -> message + ": " + answer);
        }

        /// Watches /trace.
        private static BufferedReader watch(Chat chat, Raw raw) throws Exception {
            String head = raw.ascii("GET /trace HTTP/1.1\r\n" + near(chat) + "\r\n").readHead();
            assertStatus("200", head, "/trace");
            assertTrue(head.toLowerCase(Locale.ROOT).contains(
                    "\r\ncontent-type: text/event-stream"), head);
            var lines = new BufferedReader(new InputStreamReader(raw.in, "UTF-8"));
            while (!lines.readLine().startsWith(":")) continue;        // now it is watching
            return lines;
        }

        @Test void theWireIsServedOnlyWithTraceAndNeverTracesItself() throws Exception {
            assertEquals(404, ask("GET", "/trace").statusCode());
            assertStarts("404 ", answer(chat, "GET /trace", near(chat), ""), "without --trace");
            assertStarts("404 ", answer(chat, "POST /break", near(chat), ""), "without --trace");
            try (Chat traced = chat("--trace"); Raw watcher = new Raw(traced.httpPort());
                    Raw member = new Raw(traced.webSocketPort())) {
                BufferedReader lines = watch(traced, watcher);
                member.shakeHands("/echo").text("\t\n\r\ndata: forged\u001b[31m\u2028");
                var seen = new ArrayList<String>();
                // until both the message and its echo were shown
                while (seen.stream().filter(line -> line.contains("TEXT frame")).count() < 2)
                    seen.add(lines.readLine());
                String all = String.join("\n", seen),
                        time = "\ndata: \\d\\d:\\d\\d:\\d\\d[.]\\d{3}\t#\\d+\t";
                for (String expected : List.of(time + "in\tthe opening handshake",
                        time + "in\tTEXT frame", time + "out\tTEXT frame",
                        "\ndata: 37 fa 21 3d\tmasking key\t"))
                    assertTrue(Pattern.compile(expected).matcher(all).find(), expected + " in "
                            + all);
                assertFalse(all.contains("/trace"), all);
                // chunk sizes, comments, titles and rows; nothing else, whatever clients send
                for (String line : seen)
                    assertTrue(line.matches("[0-9a-f]*|:.*|data: \\d\\d:[^\t\u001b]*\t#\\d+\t"
                            + "(in|out|)\t[^\t\u001b]*|data: [^\t\u001b]*(\t[^\t\u001b]*){2}"),
                            line);
                assertTrue(seen.stream().noneMatch(line -> line.startsWith("data: forged")), all);
            }
        }

        @Test void theWireIsForNoOtherName() throws Exception {
            try (Chat traced = chat("--trace")) {
                assertStatus("403", raw(traced, "GET /trace HTTP/1.1", "Host: evil.example"),
                        "name");
                assertStarts("405 What works here is GET.",
                        answer(traced, "POST /trace", near(traced), ""), "POST");
                assertStarts("405 What works here is POST.",
                        answer(traced, "GET /break", near(traced), ""), "GET");
                try (Raw raw = new Raw(traced.httpPort())) {
                    raw.ascii("GET /break HTTP/1.1\r\n" + near(traced) + "\r\n");
                    String head = raw.readHead();
                    assertTrue(head.contains("\r\nAllow: POST\r\n"), head);
                }
            }
        }

        @Test void theWireAndTheBrokenRuleAreOnlyForABrowserAtThisMachine() throws Exception {
            try (Chat traced = chat("--trace", "--origin=https://chat.example")) {
                String own = "http://localhost:" + traced.httpPort();
                for (String headers : List.of(near(traced), near(traced, "Origin: " + own,
                        "Sec-Fetch-Site: same-origin"))) {
                    assertStarts("200 ", answer(traced, "GET /trace", headers, ""), headers);
                    assertStarts("400 ", answer(traced, "POST /break", headers, ""), headers);
                    assertTrue(answer(traced, "GET /", headers, "").contains("'?page="), headers);
                }
                for (String header : List.of("Origin: https://chat.example", "Origin: null",
                        "Origin: http://localhost:1", "Sec-Fetch-Site: cross-site",
                        "Sec-Fetch-Site: same-site", "Sec-Fetch-Site: none")) {
                    String headers = near(traced, header);
                    assertStarts("404 ", answer(traced, "GET /trace", headers, ""), header);
                    assertStarts("404 ", answer(traced, "POST /break", headers, ""), header);
                }
                var far = Stream.of("X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1",
                        "X-Forwarded-Host: localhost", "X-Forwarded-Proto: https", "Via: 1.1 proxy",
                        "Forwarded: for=127.0.0.1").map(header -> near(traced, header))
                        .collect(Collectors.toCollection(ArrayList::new));
                // nginx without any headers of its own, and who comes by another port
                far.add(near(traced).replace("keep-alive", "close"));
                far.add(near(traced).replaceFirst("Connection.*\r\n", ""));
                far.add("Host: chat.example\r\nConnection: keep-alive\r\n");
                far.add("Host: localhost:1\r\nConnection: keep-alive\r\n");
                for (String headers : far) {
                    assertStarts("404 ", answer(traced, "GET /trace", headers, ""), headers);
                    assertStarts("404 ", answer(traced, "POST /break", headers, ""), headers);
                    String page = answer(traced, "GET /", headers, "");
                    assertTrue(page.startsWith("200 ") && !page.contains("'?page="), headers);
                }
            }
        }

        @Test void eachExampleOfABrokenRuleBreaksItsRule() throws Exception {
            Matcher example = Pattern.compile("<option value=\"([0-9a-f ]+)\">(.+)")
                    .matcher(ask("GET", "/").body());
            var outcome = new LinkedHashMap<String, String>();
            try (Chat traced = chat("--trace"); Raw watcher = new Raw(traced.httpPort())) {
                BufferedReader lines = watch(traced, watcher);
                while (example.find()) {
                    assertStarts("200 ", answer(traced, "POST /break", near(traced),
                            example.group(1)), example.group(2));
                    String line = lines.readLine();
                    while (!line.contains("\trefused with")) line = lines.readLine();
                    String refusal = line.replaceFirst(".*\trefused with (\\d+).*(\\(§.*\\)).*", "$1 $2");
                    while (!line.contains("\tout\tCLOSE frame")) line = lines.readLine();
                    outcome.put(example.group(2).replace("</select>", ""), refusal);
                }
            }
            assertEquals(Map.of("a frame without a mask", "1002 (§5.1)",
                    "a reserved bit", "1002 (§5.2)", "a CLOSE with code 1005", "1002 (§7.4)",
                    "a fragment without a beginning", "1002 (§5.4)",
                    "text that is no UTF-8", "1007 (§8.1)"), outcome);
        }

        @Test void toBreakARuleIsBoundedAndOneAtATime() throws Exception {
            try (Chat traced = chat("--trace", "--host=0.0.0.0")) {
                for (String wrong : List.of("", "8", "81 0", "hello", "é"))
                    assertStarts("400 ", answer(traced, "POST /break", near(traced), wrong), wrong);
                String most = "88 80 00 00 00 00 ".repeat(50);
                assertStarts("200 ", answer(traced, "POST /break", near(traced), most), "300 bytes");
                assertStarts("413 ", answer(traced, "POST /break", near(traced), most + "81"), "301");
                // a whole PING is answered and breaks nothing, so the server waits for a moment
                String ping = "89 80 00 00 00 00";
                eventually("200 503", () -> {
                    var two = Stream.generate(() -> new FutureTask<>(() -> answer(traced,
                            "POST /break", near(traced), ping).substring(0, 3))).limit(2).toList();
                    two.forEach(Thread::startVirtualThread);
                    return two.stream().map(answer -> {
                        try { return answer.get(); } catch (Exception lost) { return "lost"; }
                    }).sorted().collect(Collectors.joining(" "));
                });
                eventually("200 ", () -> answer(traced, "POST /break", near(traced), "8800")
                        .substring(0, 4));
            }
        }
    }

    // ---- The page, in a browser ---------------------------------------------------------------

    /// What the page as served must do in each browser. Where there is none, its tests are skipped.
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    abstract static class AnyBrowser {
        static final String CONNECTED = "/^connected as [^ ]+$/.test(ui.state.textContent)";
        static final String LINES = "[...document.querySelectorAll('li')]"
                + ".map(line => line.textContent).join('|')";
        static final String ITEMS =
                "[...ui.frames.querySelectorAll('li')].map(item => item.innerText)";
        Browser browser;
        Chat chat;

        /// A new browser; null where none is installed.
        abstract Browser startBrowser() throws Exception;

        @BeforeAll void start() throws Exception {
            browser = startBrowser();
            if (browser != null) chat = chat();
        }

        @BeforeEach void skipWithoutBrowser() {
            assumeTrue(browser != null, "this browser is not installed");
        }

        @AfterAll void stop() throws Exception {
            if (chat != null) chat.close();
            if (browser != null) browser.close();
        }

        /// After each test: nothing that the policy forbids was tried, and no script failed.
        @AfterEach void assertNothingWasForbidden() throws Exception {
            if (browser == null) return;
            try {
                for (Browser.Tab tab : browser.tabs)
                    assertEquals("", tab.ask("violations.join()"), "Content Security Policy");
                assertEquals(List.of(), browser.complaints());
            } finally {
                browser.closeTabs();
            }
        }

        String room(Chat chat, String room) {
            return "http://localhost:" + chat.httpPort() + "/chat/" + room;
        }

        /// A tab that has joined a room.
        Browser.Tab join(Chat chat, String room) throws Exception {
            Browser.Tab tab = browser.open(room(chat, room));
            tab.until(CONNECTED + " && ui.people.textContent !== ''");
            return tab;
        }

        /// A server that will stop, on ports that nobody else gets then.
        static Chat mortal() throws Exception {
            return chat("--http-port=" + freePort(), "--ws-port=" + freePort());
        }

        /// A server on the ports of one that has stopped.
        Chat again(Chat stopped) throws Exception {
            return chat("--http-port=" + stopped.httpPort(), "--ws-port="
                    + stopped.webSocketPort());
        }

        String name(Browser.Tab tab) throws Exception {
            return tab.ask("ui.state.textContent").replace("connected as ", "");
        }

        @Test void twoTabsSeeEachOthersLinesNamesAndLeavings() throws Exception {
            Browser.Tab first = join(chat, "two"), second = join(chat, "two");
            String one = name(first), two = name(second);
            first.until("ui.people.textContent === ', 2 here'");
            second.until("ui.people.textContent === ', 2 here'");
            assertEquals("two", first.ask("document.querySelector('h1').textContent"));
            assertEquals("two", first.ask("document.title"));
            first.say("hello");
            second.until(LINES + ".endsWith('" + one + ": hello')");
            second.say("/nick ada");
            second.say("hi");
            first.until(LINES + ".endsWith('ada: hi')");
            second.until("ui.state.textContent === 'connected as ada'");
            assertEquals(String.join("|", " .... " + one + " has joined.",
                    " .... " + two + " has joined.", one + ": hello",
                    " .... " + two + " is now ada.", "ada: hi"), first.ask(LINES));
            first.until("document.querySelectorAll('li.own').length === 1");
            assertEquals(one + ": hello", first.ask("document.querySelector('.own').textContent"));
            second.close();
            first.until(LINES + ".endsWith(' .... ada has left.')");
            first.until("ui.people.textContent === ', 1 here'");
        }

        @Test void enterSendsAndNothingEmptyIsSent() throws Exception {
            Browser.Tab tab = join(chat, "enter");
            assertEquals("chat-input", tab.ask("document.activeElement.id"));
            tab.press("Enter", 13);
            tab.say("   ");
            assertEquals("   ", tab.ask("ui.input.value"));
            tab.press("Escape", 27);
            assertEquals("", tab.ask("ui.input.value"));
            tab.say("something");
            tab.until(LINES + ".endsWith(': something')");
            assertEquals("", tab.ask("ui.input.value"));
            assertEquals("2", tab.ask("document.querySelectorAll('li').length"));
        }

        @Test void upRecallsTheLastLineAndKeepsWhatIsBeingTyped() throws Exception {
            Browser.Tab tab = join(chat, "up");
            tab.say("first");
            tab.say("second");
            tab.press("ArrowUp", 38);
            assertEquals("second", tab.ask("ui.input.value"));
            tab.press("Escape", 27);
            tab.type("a draft");
            tab.press("ArrowUp", 38);
            assertEquals("a draft", tab.ask("ui.input.value"));
        }

        @Test void aPastedTextKeepsItsLineBreaks() throws Exception {
            Browser.Tab tab = join(chat, "paste"), other = join(chat, "paste");
            tab.ask("""
                    (() => {
                      const data = new DataTransfer();
                      data.setData('text/plain', ['if (a)', '  b();', ''].join('\\r\\n'));
                      const paste = new Event('paste', { bubbles: true, cancelable: true });
                      paste.clipboardData = data;     // Firefox takes none when it is made
                      ui.input.dispatchEvent(paste);
                    })()""");
            tab.until("ui.input.value !== ''");
            tab.press("Enter", 13);
            other.until("document.querySelector('.text')?.textContent === 'if (a)\\n  b();'");
            assertEquals("pre-wrap", other.ask(
                    "getComputedStyle(document.querySelector('.text')).whiteSpace"));
        }

        @Test void whatThePageAsksItselfIsHiddenAndWhatOneAsksIsShown() throws Exception {
            Browser.Tab tab = join(chat, "who");
            tab.until(LINES + " === ' .... " + name(tab) + " has joined.'");
            tab.say("/who");
            tab.until(LINES + ".endsWith(' .... 1 here: " + name(tab) + "')");
            tab.ask("window.dispatchEvent(new Event('online'))");
            tab.say("/who");
            tab.say("end");
            tab.until(LINES + ".endsWith(': end')");
            assertEquals("2", tab.ask(LINES + ".split(' here: ').length - 1"));
        }

        @Test void theListFollowsOnlyAReaderAtTheEndAndTheTitleCounts() throws Exception {
            Browser.Tab tab = join(chat, "follow");
            String atEnd = "ui.log.scrollHeight - ui.log.scrollTop - ui.log.clientHeight < 2";
            String scrollBack = "new Promise(done => "
                    + "{ ui.log.onscrollend = done; ui.log.scrollTop = 0; })";
            try (Raw raw = Raw.open(chat, "/chat/follow")) {
                for (int i = 0; i < 60; i++) raw.text("line " + i);
                tab.until(LINES + ".endsWith(': line 59') && " + atEnd);
                assertEquals("follow", tab.ask("document.title"));
                tab.ask(scrollBack);
                for (int i = 0; i < 3; i++) raw.text("new " + i);
                tab.until("ui.more.textContent === '3 new' && !ui.more.hidden");
                assertEquals("0 (3) follow", tab.ask("ui.log.scrollTop + ' ' + document.title"));
                tab.ask("ui.more.click()");
                tab.until("ui.more.hidden && document.title === 'follow' && " + atEnd);
                assertEquals("chat-input", tab.ask("document.activeElement.id"));
                // in a hidden tab the list follows, and the title counts what was not seen
                String hide = """
                        Object.defineProperty(document, 'hidden', { value: %s,
                                configurable: true }),
                        document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))""";
                tab.ask(hide.formatted(true));
                for (int i = 0; i < 2; i++) raw.text("unseen " + i);
                tab.until("document.title === '(2) follow' && " + atEnd);
                tab.ask(hide.formatted(false));
                tab.until("document.title === 'follow'");
                // who scrolls back and then says something wants to see it
                tab.ask(scrollBack);
                tab.say("mine");
                tab.until(LINES + ".endsWith(': mine') && " + atEnd);
            }
        }

        @Test void itComesBackAfterTheServerWasStoppedAndStartedAgain() throws Exception {
            Chat before = mortal();
            Browser.Tab tab;
            try (before) {
                tab = join(before, "back");
                tab.say("/nick ada");
                tab.until("ui.state.textContent === 'connected as ada'");
                tab.type("typed before");
            }
            tab.until("/^connection lost, trying again in [0-9]+ s$/.test(ui.state.textContent)");
            tab.press("Enter", 13);
            tab.until("ui.hint.textContent.startsWith('Not sent')");
            assertEquals("typed before", tab.ask("ui.input.value"));
            tab.until(LINES + ".includes('Connection lost: the server is stopping.')");
            try (Chat after = again(before); Raw raw = Raw.open(after, "/chat/back")) {
                tab.until("ui.state.textContent === 'connected as ada'");      // and not user-N
                tab.until("ui.people.textContent === ', 2 here'");
                assertEquals("typed before", tab.ask("ui.input.value"));
                tab.press("Enter", 13);
                while (!raw.line().equals("ada: typed before")) continue;
                tab.until("ui.input.value === '' && ui.hint.textContent === ''");
            }
        }

        @Test void itsOwnHandshakeIsTheFirstThingInThePane() throws Exception {
            try (Chat traced = chat("--trace")) {
                for (int i = 0; i < 6; i++) {
                    Browser.Tab tab = join(traced, "own");
                    tab.until("ui.frames.childElementCount > 2");
                    String first = tab.ask(ITEMS + "[0]");
                    assertTrue(first.contains(", this page → server")
                            && first.contains("GET /chat/own?page="), first);
                    tab.close();
                }
            }
        }

        @Test void anIPv6AddressWorks() throws Exception {
            Browser.Tab tab;
            try {
                new Socket(InetAddress.getByName("::1"), chat.httpPort()).close();
            } catch (IOException none) {
                assumeTrue(false, "this machine has no ::1");
            }
            tab = browser.open("http://[::1]:" + chat.httpPort() + "/chat/six");
            tab.until(CONNECTED);
            assertEquals("ws://[::1]:" + chat.webSocketPort() + "/chat/six",
                    tab.ask("sockets[0].url"));
        }

        @Test void withoutTheNewestFunctionsLinksAreShownToo() throws Exception {
            Browser.Tab tab = browser.open("about:blank", "delete URL.canParse;");
            tab.navigate(room(chat, "old"));
            tab.until(CONNECTED);
            tab.say("see https://example.org/ and http://[");
            tab.until("document.querySelector('.text a')?.href === 'https://example.org/'");
        }

        @Test void aRuleCanBeBrokenOnPurposeAndTheAnswerIsSeen() throws Exception {
            try (Chat traced = chat("--trace")) {
                Browser.Tab tab = join(traced, "rules");
                tab.ask("ui.example.selectedIndex = 1, "
                        + "ui.example.dispatchEvent(new Event('change'))");
                assertEquals("81 05 48 65 6c 6c 6f", tab.ask("ui.bytes.value"));
                tab.ask("ui.bytes.form.requestSubmit()");
                tab.until(ITEMS + ".some(item => item.includes('refused with 1002: a client must mask "
                        + "its frames (§5.1)') && item.includes('81 05 48 65 6c 6c 6f'))");
                tab.until(ITEMS + ".some(item => /server → #[0-9]+ /.test(item)"
                        + " && item.includes('CLOSE frame') && item.includes('1002 (§7.4)'))");
                assertEquals("1", tab.ask(LINES + ".split(' has joined.').length - 1"),
                        "nobody is disturbed");
                assertTrue(tab.ask("ui.state.textContent").startsWith("connected as"));
            }
        }
    }

    @Nested
    @DisplayName("The page in Firefox")
    class PageInFirefox extends AnyBrowser {
        @Override
        Browser startBrowser() throws Exception {
            return Firefox.PROGRAM.isEmpty() ? null : new Firefox();
        }
    }

    @Nested
    @DisplayName("The page in a browser")
    class Page extends AnyBrowser {
        @Override
        Browser startBrowser() throws Exception {
            return Browser.PROGRAM.isEmpty() ? null : new Browser();
        }

        @Test void enterWhileComposingBelongsToTheInputMethod() throws Exception {
            Browser.Tab tab = join(chat, "ime");
            tab.send("Input.imeSetComposition",
                    "{'text':'にほん','selectionStart':3,'selectionEnd':3}".replace('\'', '"'));
            tab.press("Enter", 13);
            tab.press("Escape", 27);
            assertEquals("にほん", tab.ask("ui.input.value"));
            tab.send("Input.insertText", "{\"text\":\"日本\"}");
            // Safari sends the Enter that commits after the composition, as key 229
            tab.ask("ui.input.dispatchEvent(new KeyboardEvent('keydown', "
                    + "{ key: 'Enter', keyCode: 229, bubbles: true, cancelable: true }))");
            assertEquals("日本", tab.ask("ui.input.value"));
            tab.press("Enter", 13);
            tab.until(LINES + ".endsWith(': 日本')");
            assertEquals("2", tab.ask("document.querySelectorAll('li').length"));
        }

        @Test void itTriesAgainAtGrowingAndJitteredDelays() throws Exception {
            Chat before = mortal();
            // the page's timers of a second or more run out at once, and are noted
            Browser.Tab tab = browser.open("about:blank", """
                    window.delays = [];
                    const realTimeout = window.setTimeout;
                    window.setTimeout = (task, delay) => {
                      if (delay < 1000 || task.name === 'lost') return realTimeout(task, delay);
                      delays.push(delay / 1000);
                      return realTimeout(task, 1);
                    };""");
            try (before) {
                tab.navigate(room(before, "delays"));
                tab.until(CONNECTED);
            }
            tab.until("delays.length >= 12");
            String[] delays = tab.ask("delays.join()").split(",");
            for (int i = 0; i < 12; i++) {
                double delay = Double.parseDouble(delays[i]), least = Math.min(30, Math.pow(2, i));
                assertTrue(delay >= least && delay <= 2 * least, "delay " + i + ": " + delay);
            }
            assertTrue(Stream.of(delays).skip(5).limit(7).distinct().count() > 1, "no jitter");
        }

        @Test void itTriesAgainAtOnceWhenTheBrowserIsBackOnlineOrInSight() throws Exception {
            Chat first = mortal();
            // timers of a second or more never run out, so that only the event can be the cause
            Browser.Tab tab = browser.open("about:blank", """
                    const realTimeout = window.setTimeout;
                    window.setTimeout = (task, delay) => delay < 1000 && realTimeout(task,
                            delay);""");
            try (first) {
                tab.navigate(room(first, "online"));
                tab.until(CONNECTED);
            }
            for (String event : List.of("online", "visibilitychange")) {
                tab.until("ui.state.textContent.startsWith('connection lost')");
                Chat again = again(first);
                try (again) {
                    tab.ask("window.dispatchEvent(new Event('" + event + "'))");
                    tab.until(CONNECTED);
                }
            }
        }

        @Test void aMessageTooLongIsExplainedAndStaysToBeShortened() throws Exception {
            try (Chat strict = chat("--max-message=1000")) {
                Browser.Tab tab = join(strict, "long");
                tab.say("x".repeat(2000));
                tab.until(LINES + ".includes('Connection lost: a message was too long.')");
                assertEquals("Too long for the server: please shorten it.",
                        tab.ask("ui.hint.textContent"));
                assertEquals("2000", tab.ask("ui.input.value.length"));
                tab.until(CONNECTED);                       // it does not try to send it again
                assertEquals("2000", tab.ask("ui.input.value.length"));
                tab.ask("ui.input.value = ui.input.value.slice(0, 500)");
                tab.press("Enter", 13);
                tab.until(LINES + ".endsWith(': " + "x".repeat(500) + "')");
                assertEquals("", tab.ask("ui.hint.textContent + ui.input.value"));
            }
        }

        @Test void whatWasSaidButNotHeardBackComesBackIntoTheBox() throws Exception {
            Chat before = mortal();
            // a socket that takes the message, and then the connection is lost
            Browser.Tab tab = browser.open("about:blank", """
                    const { send } = WebSocket.prototype;
                    WebSocket.prototype.send = function (line) {
                      if (line !== 'gone') send.call(this, line);
                    };""");
            try (before) {
                tab.navigate(room(before, "unheard"));
                tab.until(CONNECTED);
                tab.say("gone");
                tab.type("next");
            }
            tab.until("ui.state.textContent.startsWith('connection lost')");
            assertEquals("gone⏎next", tab.ask("ui.input.value"));
            assertEquals("This may not have arrived.", tab.ask("ui.hint.textContent"));
        }

        @Test void aConnectionThatNoLongerAnswersCountsAsLost() throws Exception {
            // the message goes nowhere, no close is seen, and the page's 20 s are but 2
            Browser.Tab tab = browser.open("about:blank", """
                    const realTimeout = window.setTimeout;
                    window.setTimeout = (task, delay) => realTimeout(task, Math.min(delay, 2000));
                    const { send } = WebSocket.prototype;
                    WebSocket.prototype.send = function (line) {
                      if (line !== 'gone') send.call(this, line);
                    };""");
            tab.navigate(room(chat, "dead"));
            tab.until(CONNECTED);
            tab.say("gone");
            tab.until("ui.state.textContent.startsWith('connection lost')");
            assertEquals("gone", tab.ask("ui.input.value"));
            tab.until(CONNECTED + " && sockets.length === 2");
        }

        @Test void theReasonOfAnEndIsGivenInWords() throws Exception {
            for (var end : Map.of(1003, "only text is taken here", 1008, "a rule was broken",
                    1009, "a message was too long", 1011, "the server failed").entrySet()) {
                Browser.Tab tab = join(chat, "words");
                tab.ask("sockets.at(-1).dispatchEvent(new CloseEvent('close', { code: %d }))"
                        .formatted(end.getKey()));
                tab.until(LINES + ".includes('Connection lost: " + end.getValue() + ".')");
            }
        }

        @Test void hostileTextIsShownAsTextAndNothingRuns() throws Exception {
            Browser.Tab tab = join(chat, "אב-hostile");
            assertEquals("אב-hostile", tab.ask("document.title"));
            List<String> hostile = List.of(
                    "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>",
                    "<a href='javascript:window.hacked=1'>x</a>", "javascript:window.hacked=1",
                    "</li></ul><style>*{display:none}</style>", "{{nonce}} ${1} &amp; &#60;b>",
                    "\u202edesrever\u2066\u2067\u202b\u061c",
                    "\0\1\7\b\33[31mred\33[0m\177\u0085\u2028",
                    "one\n .... user-1 has joined.\nada: two", " .... user-1 has left.",
                    "https://a.example/\"onmouseover='window.hacked=1'", "data:text/html,<b>",
                    "__proto__");
            try (Raw raw = Raw.open(chat, "/chat/%d7%90%d7%91-hostile")) {
                raw.text("/nick \u05d0\u05d1");
                String name = raw.line().contains("is now") ? "\u05d0\u05d1" : null;
                assertNotNull(name, "letters of any script are names");
                tab.until("ui.people.textContent === ', 2 here'");
                String people = tab.ask("ui.people.textContent");
                for (String text : hostile) raw.text(text);
                raw.text("end");
                tab.until("ui.log.lastElementChild.querySelector('.text')?.textContent === 'end'");
                tab.say("/<b>x</b>");                         // what the server says of that
                tab.until("ui.log.lastElementChild.textContent.includes('no command /<b>x</b>.')");
                for (int i = 0; i < hostile.size(); i++)
                    assertEquals(name + ": " + hostile.get(i), tab.ask(
                            "ui.log.querySelectorAll('li:has(.text)')[" + i + "].textContent"));
                assertEquals(people, tab.ask("ui.people.textContent"));
            }
            assertEquals("undefined", tab.ask("typeof hacked"));
            assertEquals("A BDI LI", tab.ask("[...new Set([...ui.log.querySelectorAll('*')]"
                    + ".map(element => element.tagName))].sort().join(' ')"));
            assertEquals("https://a.example/", tab.ask(
                    "[...ui.log.querySelectorAll('a')].map(link => link.href).join(' ')"));
            // a message can turn its own direction of writing, not that of what is beside it
            assertEquals("isolate", tab.ask("[...new Set([...ui.log.querySelectorAll('bdi')]"
                    + ".map(element => getComputedStyle(element).unicodeBidi))].join()"));
            assertEquals("", tab.ask("violations.join()"));
            for (String path : List.of("/chat/%3Cscript%3E", "/chat/%E2%80%AE", "/chat/a%00"))
                assertEquals("404", tab.ask("fetch('" + path + "').then(answer => answer.status)"));
        }

        @Test void linksInAMessageCanBeFollowedAndLeadSafelyAway() throws Exception {
            Browser.Tab tab = join(chat, "links");
            String here = "http://localhost:" + chat.httpPort() + "/chat/links-2";
            tab.say("see https://example.org/a_(b), (http://example.net/?q=1&r=ö#x). "
                    + "ftp://no.example "
                    + "HTTPS://EXAMPLE.COM! mailto:no https:// http://[ " + here);
            tab.until("ui.log.querySelectorAll('a').length >= 4");
            String links = "[...document.querySelectorAll('a')]";
            assertEquals(String.join("|", "https://example.org/a_(b) _blank",
                    "http://example.net/?q=1&r=%C3%B6#x _blank", "https://example.com/ _blank",
                    here + " "), tab.ask(links
                    + ".map(link => link.href + ' ' + link.target).join('|')"));
            assertEquals("true", tab.ask(links
                    + ".every(link => link.rel === 'noopener noreferrer')"));
            // to another room, and back and forward
            tab.ask("setTimeout(() => ui.log.querySelector('a:last-of-type').click())");
            tab.until("document.title === 'links-2' && " + CONNECTED);
            tab.ask("setTimeout(() => history.back())");      // after the answer
            tab.until("document.title === 'links' && " + CONNECTED);
            tab.ask("setTimeout(() => history.forward())");
            tab.until("document.title === 'links-2' && " + CONNECTED);
            tab.until("ui.people.textContent === ', 1 here'");
        }

        @Test void twoThousandLinesLeaveItResponsiveAndBounded() throws Exception {
            Browser.Tab tab = join(chat, "flood");
            tab.ask("""
                    (() => {
                      window.longest = 0;
                      let last = performance.now();
                      setInterval(() => {
                        longest = Math.max(longest, performance.now() - last);
                        last = performance.now();
                      }, 10);
                    })()""");
            try (Raw raw = Raw.open(chat, "/chat/flood")) {
                var heard = new CompletableFuture<Void>();
                Thread reader = Thread.startVirtualThread(() -> {
                    try {
                        while (!raw.line().endsWith(": I can still talk")) continue;
                        heard.complete(null);
                        raw.in.transferTo(OutputStream.nullOutputStream());
                    } catch (IOException closed) {
                    }
                });
                var flood = new ByteArrayOutputStream();
                for (int i = 0; i < 2000; i++)
                    flood.writeBytes(masked(0x81, utf8("see https://example.org/" + i)));
                raw.write(flood.toByteArray());
                tab.say("I can still talk");
                tab.until(LINES + ".includes('/1999')");
                heard.get(PATIENCE, TimeUnit.SECONDS);      // it may have left the page's list
                raw.socket.close();
                reader.join();
            }
            assertEquals("1000", tab.ask("ui.log.childElementCount"));
            tab.until("ui.log.scrollHeight - ui.log.scrollTop - ui.log.clientHeight < 2");
            double longest = Double.parseDouble(tab.ask("longest"));
            assertTrue(longest < 1500, "the page stood still for " + longest + " ms");
        }

        @Test void narrowScreensHaveNoHorizontalScroll() throws Exception {
            try (Chat traced = chat("--trace"); Raw raw = Raw.open(traced, "/chat/narrow")) {
                raw.text("/nick " + "n".repeat(24));
                raw.text("x".repeat(400) + " https://example.org/" + "y".repeat(300));
                for (int width : List.of(320, 360, 1100)) {
                    Browser.Tab tab = join(traced, "narrow");
                    tab.resize(width, 640);
                    raw.text("w".repeat(200));
                    tab.until("document.querySelectorAll('.text, .field').length > 2");
                    for (int open = 0; open < 2; open++) {
                        assertEquals("", tab.ask("""
                                [document.documentElement, document.body, ui.log, ui.frames]
                                  .filter(element => element.scrollWidth > element.clientWidth)
                                  .map(element => element.tagName + element.id)
                                          .join()"""), width + " px");
                        assertEquals("true", tab.ask("""
                                (({ right, bottom }) => right <= innerWidth
                                        && bottom <= innerHeight)
                                  (ui.input.getBoundingClientRect())"""));
                        tab.ask("ui.toggle.click()");
                    }
                    tab.close();
                }
            }
        }

        @Test void namesAndNoticesHaveEnoughContrastInBothSchemes() throws Exception {
            for (String scheme : List.of("light", "dark")) {
                Browser.Tab tab = join(chat, "contrast");
                tab.send("Emulation.setEmulatedMedia",
                        ("{'features':[{'name':'prefers-color-scheme',"
                        + "'value':'" + scheme + "'}]}").replace('\'', '"'));
                try (Raw raw = Raw.open(chat, "/chat/contrast")) {
                    for (int i = 0; i < 200; i++) raw.text("/nick " + scheme + i).text("hello");
                    tab.until(LINES + ".endsWith('" + scheme + "199: hello')");
                }
                String worst = tab.ask("""
                        (() => {
                          const brush = document.createElement('canvas').getContext('2d');
                          const light = colour => {
                            brush.fillStyle = colour;
                            brush.fillRect(0, 0, 1, 1);
                            const [r, g, b] = [...brush.getImageData(0, 0, 1, 1).data].map(c =>
                              c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255
                                      + .055) / 1.055) ** 2.4);
                            return .2126 * r + .7152 * g + .0722 * b;
                          };
                          const paper = light(getComputedStyle(document.body).backgroundColor);
                          const texts = document.querySelectorAll('.name, .notice, #status');
                          return Math.min(...[...texts].map(text => {
                            const ink = light(getComputedStyle(text).color);
                            return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
                          }));
                        })()""");
                assertTrue(Double.parseDouble(worst) >= 4.5, scheme + ": contrast " + worst);
            }
        }

        @Test void itCanBeUsedByKeyboardAndByEar() throws Exception {
            Browser.Tab tab = join(chat, "ear");
            assertEquals("log messages message status alert",
                    tab.ask("[ui.messages.role, ui.messages.ariaLabel, "
                    + "ui.input.ariaLabel, ui.state.role, ui.hint.role].join(' ')"));
            tab.press("Tab", 9);
            assertEquals("send", tab.ask("document.activeElement.id"));
            assertNotEquals("none",
                    tab.ask("getComputedStyle(document.activeElement).outlineStyle"));
            assertEquals("0", tab.ask("document.getAnimations().length"));
        }

        // -- nothing untrue, nothing lost --

        /// Before each page: waits of a second or more take one second.
        private static final String IN_A_HURRY = """
                const realTimeout = window.setTimeout, realInterval = window.setInterval;
                window.setTimeout = (task, delay) => realTimeout(task, Math.min(delay, 1000));
                window.setInterval = (task, delay) => realInterval(task, Math.min(delay, 1000));
                """;

        @Test void aConnectionThatDiedIsNoticedThoughNobodyTypes() throws Exception {
            Browser.Tab tab = browser.open("about:blank", IN_A_HURRY, """
                    const { send } = WebSocket.prototype;
                    WebSocket.prototype.send = function (line) {
                      if (!window.dead) send.call(this, line);
                    };""");
            tab.navigate(room(chat, "silent"));
            tab.until(CONNECTED);
            tab.ask("window.dead = true");
            tab.until("ui.state.textContent.startsWith('connection lost')");
            tab.ask("window.dead = false");
            tab.until(CONNECTED);
        }

        @Test void whoIsImpatientDoesNotWaitLonger() throws Exception {
            Chat stopped = mortal();
            Browser.Tab tab;
            try (stopped) {
                tab = join(stopped, "impatient");
            }
            tab.type("soon");
            for (int i = 0; i < 8; i++) {
                tab.until("ui.state.textContent.includes('trying again in')");
                tab.press("Enter", 13);
            }
            tab.until("ui.state.textContent.includes('trying again in')");
            assertTrue(tab.ask("ui.state.textContent").matches(".*trying again in [12] s"));
            assertEquals("soon", tab.ask("ui.input.value"));
        }

        @Test void theNameComesBackWhenOnesOwnGhostHasGone() throws Exception {
            Browser.Tab tab = browser.open("about:blank", """
                    const { close } = WebSocket.prototype;
                    WebSocket.prototype.close = function () {
                      if (!window.isCut) close.call(this);
                    };""");
            tab.navigate(room(chat, "ghost"));
            tab.until(CONNECTED);
            tab.say("/nick grace");
            tab.until("ui.state.textContent === 'connected as grace'");
            // the page is cut off, and the server does not know it yet
            tab.ask("window.isCut = true");
            tab.ask("sockets[0].dispatchEvent(new CloseEvent('close', { code: 1006 }))");
            tab.until("sockets.length === 2 && /^connected as user-/.test(ui.state.textContent)");
            tab.ask("window.isCut = false, sockets[0].close()");
            tab.until("ui.state.textContent === 'connected as grace'");
        }

        @Test void theNameAndWhatIsUnsentSurviveAReload() throws Exception {
            Browser.Tab tab = join(chat, "keep");
            tab.say("/nick keeper");
            tab.until("ui.state.textContent === 'connected as keeper'");
            tab.type("half a line");
            tab.ask("window.old = true");
            tab.send("Page.reload", "{}");
            tab.until("!window.old && ui.state.textContent === 'connected as keeper'");
            assertEquals("half a line", tab.ask("ui.input.value"));
            tab.navigate(room(chat, "keep-2"));
            tab.until("document.title === 'keep-2' "
                    + "&& ui.state.textContent === 'connected as keeper'");
            assertEquals("", tab.ask("ui.input.value"), "that was for another room");
            tab.ask("setTimeout(() => history.back())");      // after the answer
            tab.until("document.title === 'keep' && ui.state.textContent === 'connected as keeper'");
            assertEquals("half a line", tab.ask("ui.input.value"));
        }

        @Test void withBlockedStorageAllElseWorks() throws Exception {
            try (Chat traced = chat("--trace")) {
                Browser.Tab tab = browser.open("about:blank", """
                        for (const storage of ['localStorage', 'sessionStorage'])
                          Object.defineProperty(window, storage, { get() {
                            throw new DOMException('blocked', 'SecurityError'); } });""");
                tab.navigate(room(traced, "blocked"));
                tab.until(CONNECTED + " && document.title === 'blocked' && !ui.wire.hidden");
                tab.say("/nick ada");
                tab.until("ui.state.textContent === 'connected as ada'");
            }
        }

        @Test void escapeCanBeTakenBack() throws Exception {
            Browser.Tab tab = join(chat, "escape");
            tab.type("a long draft");
            tab.press("Escape", 27);
            assertEquals("", tab.ask("ui.input.value"));
            tab.press("ArrowUp", 38);
            assertEquals("a long draft", tab.ask("ui.input.value"));
        }

        private static void pressShift(Browser.Tab tab, String key, int code) throws Exception {
            tab.send("Input.dispatchKeyEvent", ("{'type':'rawKeyDown','key':'%s','code':'%s',"
                    + "'modifiers':8,'windowsVirtualKeyCode':%d}").formatted(key, key, code)
                    .replace('\'', '"'));
        }

        @Test void shiftEnterBreaksTheLineAndOtherModifiersAreTheBrowsers() throws Exception {
            Browser.Tab tab = join(chat, "shift");
            tab.type("one");
            pressShift(tab, "Enter", 13);
            tab.type("two");
            assertEquals("one⏎two", tab.ask("ui.input.value"));
            tab.press("Enter", 13);
            tab.until("document.querySelector('.text')?.textContent === 'one\\ntwo'");
            tab.say("last");
            pressShift(tab, "ArrowUp", 38);
            assertEquals("", tab.ask("ui.input.value"));
        }

        @Test void whereThereIsNoConnectionItSaysWhatItTried() throws Exception {
            try (Chat full = chat("--max-connections=1"); Raw only = Raw.open(full, "/echo")) {
                Browser.Tab tab = browser.open(room(full, "full"));
                tab.until("/^no connection, trying again in [0-9]+ s$/.test(ui.state.textContent)");
                tab.until(LINES + ".includes('No answer from ws://localhost:" + full.webSocketPort()
                        + "/chat/full: down, full or blocked? See --public-url')");
                only.bye();
                tab.until(CONNECTED);
                tab.until(LINES + ".endsWith(' has joined.')");
                assertEquals("2", tab.ask(LINES + ".split('|').length"), "said once");
            }
        }

        @Test void whoComesAndGoesIsNotUnread() throws Exception {
            Browser.Tab tab = join(chat, "unread");
            try (Raw raw = Raw.open(chat, "/chat/unread")) {
                for (int i = 0; i < 60; i++) raw.text("line " + i);
                tab.until(LINES + ".endsWith(': line 59')");
                tab.ask("new Promise(done => "
                        + "{ ui.log.onscrollend = done; ui.log.scrollTop = 0; })");
                Raw.open(chat, "/chat/unread").close();
                tab.until(LINES + ".endsWith(' has left.')");
                assertEquals("true unread", tab.ask("ui.more.hidden + ' ' + document.title"));
                raw.text("news");
                tab.until("ui.more.textContent === '1 new' && !ui.more.hidden");
            }
        }

        // -- for everybody --

        @Test void axeFindsNothingInBothSchemesWithAndWithoutThePane() throws Exception {
            assumeTrue(Files.exists(Browser.AXE), "axe-core could not be had");
            try (Chat traced = chat("--trace"); Raw raw = Raw.open(traced, "/chat/axe")) {
                for (String scheme : List.of("light", "dark")) {
                    Browser.Tab tab = join(traced, "axe");
                    tab.send("Emulation.setEmulatedMedia",
                            ("{'features':[{'name':'prefers-color-scheme',"
                            + "'value':'" + scheme + "'}]}").replace('\'', '"'));
                    raw.text("see https://example.org/");
                    tab.say("mine");
                    tab.say("/who");
                    tab.until(LINES + ".includes(' here: ') && ui.frames.childElementCount > 5");
                    assertEquals("", tab.barriers(), scheme);
                    tab.ask("ui.toggle.click()");
                    assertEquals("", tab.barriers(), scheme + ", without the pane");
                    tab.close();
                }
            }
        }

        @Test void withForcedColoursAllHasItsShape() throws Exception {
            try (Chat traced = chat("--trace")) {
                Browser.Tab tab = join(traced, "forced");
                tab.say("mine");
                tab.until("document.querySelector('.text') !== null");
                tab.send("Emulation.setEmulatedMedia",
                        "{\"features\":[{\"name\":\"forced-colors\",\"value\":\"active\"}]}");
                assertEquals("", tab.ask("""
                        [...document.querySelectorAll('.text, button, input:not([type]), select')]
                          .filter(element => {
                            const { borderTopWidth, borderTopStyle, borderTopColor } =
                              getComputedStyle(element);
                            return borderTopWidth !== '1px' || borderTopStyle !== 'solid'
                              || borderTopColor === 'rgba(0, 0, 0, 0)';
                          }).map(element => element.outerHTML).join()"""));
            }
        }

        @Test void theBrowsersFontSizeCountsForAllThatIsRead() throws Exception {
            try (Chat traced = chat("--trace")) {
                Browser.Tab tab = join(traced, "font");
                tab.say("mine");
                tab.until("document.querySelector('.text') !== null"
                        + " && document.querySelector('code') !== null");
                String size = "['.text', '.notice', '#chat-input', '#status', 'code'].map(one => "
                        + "parseFloat(getComputedStyle(document.querySelector(one)).fontSize))";
                String before = tab.ask(size + ".map(pixels => 2 * pixels)");
                tab.ask("document.documentElement.style.fontSize = '32px'");
                assertEquals(before, tab.ask(size));
            }
        }

        @Test void aNameStandsAtItsBubbleInEachDirectionOfWriting() throws Exception {
            Browser.Tab tab = join(chat, "direction");
            tab.resize(1000, 700);
            assertEquals("auto", tab.ask("ui.input.dir"));
            try (Raw raw = Raw.open(chat, "/chat/direction")) {
                raw.text("/nick \u05dc\u05d0\u05d4").text("hello");
                tab.until("document.querySelector('.said') !== null");
                double gap = Double.parseDouble(tab.ask("""
                        document.querySelector('.name').getBoundingClientRect().left
                          - document.querySelector('.text').getBoundingClientRect().left"""));
                assertTrue(Math.abs(gap) < 20, gap + " px apart");
            }
        }

        @Test void theTimeIsSeenWhereTheMinuteChanges() throws Exception {
            Browser.Tab tab = join(chat, "time");
            for (int i = 0; i < 3; i++) tab.say("line " + i);
            tab.until(LINES + ".endsWith(': line 2')");
            assertTrue(tab.ask("getComputedStyle(document.querySelector('li'), '::before').content")
                    .matches("\".*20\\d\\d.*\\d:\\d\\d.*\""));
            assertTrue(Integer.parseInt(tab.ask("document.querySelectorAll('[data-time]').length"))
                    < 3);
        }

        @Test void theDotBesideTheStateIsNotReadAloud() throws Exception {
            Browser.Tab tab = join(chat, "dot");
            assertEquals("\"● \" / \"\"", tab.ask(
                    "getComputedStyle(ui.status, '::before').content"));
        }

        @Test void noticesAreCentredAndBubblesLeaveRoomOnSmallScreens() throws Exception {
            Browser.Tab tab = join(chat, "small");
            tab.resize(320, 640);
            tab.say("w".repeat(200));
            tab.until("document.querySelector('.own') !== null");
            assertEquals("center",
                    tab.ask("getComputedStyle(document.querySelector('.notice')).textAlign"));
            double share = Double.parseDouble(tab.ask("""
                    document.querySelector('.text').getBoundingClientRect().width
                      / document.querySelector('.said').getBoundingClientRect().width"""));
            assertTrue(share < .89, "share of the width: " + share);
        }

        // -- the bytes on the wire --

        @Test void theWireShowsEachFrameAndWhatItsBytesMean() throws Exception {
            try (Chat traced = chat("--trace", "--no-deflate")) {
                Browser.Tab tab = join(traced, "wire");
                tab.say("hello");
                // its own masked frame, and the line that goes out to all
                tab.until(ITEMS + ".some(item => /#[0-9]+, this page → server/.test(item)"
                        + " && item.includes('TEXT frame') && item.includes('masking key')"
                        + " && item.includes('68 65 6c 6c 6f') && item.includes('\"hello\"')"
                        + " && item.includes('(§5.3)'))");
                tab.until(ITEMS + ".some(item => /server → #[0-9]+, this page/.test(item)"
                        + " && item.includes('6c 6c 6f'))");
                tab.ask("window.dispatchEvent(new Event('online'))");
                tab.until(ITEMS + ".some(item => item.includes('asked by the page itself'))");
                assertEquals("0 TEXT", tab.ask("""
                        ui.frames.querySelectorAll('a, button, input, [tabindex]').length + ' '
                          + (getSelection().selectAllChildren(ui.frames),
                            getSelection().toString().match('TEXT')[0])"""), "tab stops, selection");
                try (Raw raw = Raw.open(traced, "/chat/wire")) {
                    assertTrue(tab.ask(ITEMS + ".filter(item => item.includes('this page'))"
                            + ".every(item => !item.includes('/chat/wire HTTP'))").equals("true"));
                    for (int i = 0; i < 300; i++) raw.text("many");
                    tab.until(LINES + ".split('many').length > 300");
                }
                tab.until("ui.frames.childElementCount === 200");
                tab.ask("ui.toggle.click()");
                assertEquals("true false 2", tab.ask("ui.wire.hidden + ' ' + ui.toggle.ariaExpanded"
                        + " + ' ' + traces.at(-1).readyState"));
                tab.navigate(room(traced, "wire-2"));               // the choice is remembered
                tab.until("document.title === 'wire-2' && " + CONNECTED);
                assertEquals("true", tab.ask("ui.wire.hidden"));
                tab.ask("ui.toggle.click()");
                tab.until("!ui.wire.hidden && traces.at(-1).readyState === 1");
            }
        }

        @Test void aHiddenTabLeavesTheWireToOthersAndComesBackToIt() throws Exception {
            try (Chat traced = chat("--trace")) {
                Browser.Tab tab = join(traced, "hidden");
                tab.ask("void 0");
                String hide = """
                        Object.defineProperty(document, 'hidden', { value: %s,
                                configurable: true }),
                        document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))""";
                tab.ask(hide.formatted(true));
                assertEquals("1 2", tab.ask("traces.length + ' ' + traces[0].readyState"));
                tab.ask(hide.formatted(false));
                tab.until("traces.length === 2 && traces[1].readyState === 1");
                tab.say("again");
                tab.until(ITEMS + ".some(item => item.includes('again'))");
            }
        }

        @Test void pingsCanBeHidden() throws Exception {
            try (Chat traced = chat("--trace"); Raw raw = Raw.open(traced, "/echo")) {
                Browser.Tab tab = join(traced, "pings");
                raw.frame(0x89, utf8("x")).frame();
                tab.until("document.querySelectorAll('.ping').length === 2");
                String heights = "[...document.querySelectorAll('.ping')].map("
                        + "item => item.offsetHeight > 0).join()";
                assertEquals("true,true", tab.ask(heights));
                tab.ask("ui.pings.click()");
                assertEquals("false,false", tab.ask(heights));
                tab.ask("ui.pings.click()");
                assertEquals("true,true", tab.ask(heights));
            }
        }

        // -- behind anything --

        private static Program proxy(int port, Path folder, String... command) throws Exception {
            var proxy = new Program(folder, command);
            eventually(true, () -> {
                try (Socket socket = new Socket("127.0.0.1", port)) {
                    return socket.isConnected();
                } catch (ConnectException notYet) {
                    assertTrue(proxy.process.isAlive(), proxy.err::toString);
                    return false;
                }
            });
            return proxy;
        }

        @Test void nginxMayRewriteHostAndStripAPrefix() throws Exception {
            assumeInstalled("nginx");
            int port = freePort();
            Path folder = temporary();
            try (Chat behind = chat("--trace", "--origin=http://localhost:" + port)) {
                Files.writeString(folder.resolve("nginx.conf"), """
                        daemon off; master_process off; pid nginx.pid; error_log stderr;
                        events { }
                        http {
                            access_log off;
                            client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c;
                            uwsgi_temp_path d; scgi_temp_path e;
                            map $http_upgrade $chat_port { default %d; "" %d; }
                            server {
                                listen 127.0.0.1:%d;
                                location /app/ {
                                    rewrite ^/app(/.*)$ $1 break;
                                    proxy_pass http://127.0.0.1:$chat_port;
                                    proxy_http_version 1.1;
                                    proxy_set_header Upgrade $http_upgrade;
                                    proxy_set_header Connection upgrade;
                                }
                            }
                        }
                        """.formatted(behind.webSocketPort(), behind.httpPort(), port));
                try (Program nginx = proxy(port, folder, "/usr/sbin/nginx", "-e", "stderr", "-p",
                        folder.toString(), "-c", "nginx.conf")) {
                    Browser.Tab tab = browser.open("http://localhost:" + port + "/app/chat/tea");
                    tab.until(CONNECTED);
                    assertEquals("tea tea true", tab.ask("document.title + ' ' + document"
                            + ".querySelector('h1').textContent + ' ' + ui.toggle.hidden"));
                    try (Raw raw = Raw.open(behind, "/chat/tea")) {
                        raw.text("hello");
                        tab.until(LINES + ".endsWith(': hello')");
                    }
                    tab.navigate("http://localhost:" + port + "/app/");
                    tab.until("document.title === 'lobby' && " + CONNECTED);
                    nginx.terminate();
                }
            }
        }

        @Test void caddyMayHaveHttpsInFront() throws Exception {
            assumeInstalled("caddy");
            int port = freePort();
            Path folder = temporary();
            try (Chat behind = chat("--trace", "--origin=https://localhost:" + port)) {
                Files.writeString(folder.resolve("Caddyfile"), """
                        {
                            admin off
                            skip_install_trust
                            auto_https disable_redirects
                            storage file_system %s
                        }
                        https://localhost:%d {
                            tls internal
                            @sockets header Upgrade websocket
                            reverse_proxy @sockets 127.0.0.1:%d
                            reverse_proxy 127.0.0.1:%d
                        }
                        """.formatted(folder, port, behind.webSocketPort(), behind.httpPort()));
                try (Program caddy = proxy(port, folder, "caddy", "run", "--config", "Caddyfile")) {
                    Browser.Tab tab = browser.open("about:blank");
                    tab.send("Security.setIgnoreCertificateErrors", "{\"ignore\":true}");
                    eventually("https:", () -> {
                        try {
                            tab.navigate("https://localhost:" + port + "/chat/tea");
                        } catch (AssertionError notYet) {       // its certificate is being made
                        }
                        return tab.ask("location.protocol");
                    });
                    tab.until(CONNECTED);
                    assertEquals("true wss://localhost:" + port + "/chat/tea",
                            tab.ask("ui.toggle.hidden + ' ' + sockets[0].url"));
                    caddy.terminate();
                }
            }
        }

        /// As `docker -p` or `ssh -L` do it, with other numbers outside.
        @Test void mappedPortsWorkWithAPublicUrlAndWithoutItIsSaidWhatWasTried() throws Exception {
            assumeInstalled("haproxy");
            int page = freePort(), sockets = freePort();
            int innerPage = freePort(), innerSockets = freePort();
            Path folder = temporary();
            Files.writeString(folder.resolve("haproxy.cfg"), """
                    defaults
                        mode tcp
                        timeout connect 5s
                        timeout client 60s
                        timeout server 60s
                    listen page
                        bind 127.0.0.1:%d
                        server page 127.0.0.1:%d
                    listen sockets
                        bind 127.0.0.1:%d
                        server sockets 127.0.0.1:%d
                    """.formatted(page, innerPage, sockets, innerSockets));
            String[] options = {"--http-port=" + innerPage, "--ws-port=" + innerSockets,
                "--origin=http://localhost:" + page};
            String address = "http://localhost:" + page + "/chat/tea";
            try (Program haproxy = proxy(page, folder, "/usr/sbin/haproxy", "-f", "haproxy.cfg")) {
                try (Chat behind = chat(options)) {
                    assertEquals(innerPage, behind.httpPort());
                    Browser.Tab tab = browser.open(address);
                    tab.until(LINES + ".includes('No answer from ws://localhost:" + page
                            + "/chat/tea: down, full or blocked? See --public-url')");
                }
                try (Chat behind = chat(Stream.concat(Stream.of(options), Stream.of(
                        "--public-url=ws://localhost:" + sockets)).toArray(String[]::new))) {
                    Browser.Tab tab = browser.open(address);
                    tab.until(CONNECTED);
                    assertEquals("tea", tab.ask("document.title"));
                    assertEquals(innerPage, behind.httpPort());
                    haproxy.terminate();
                }
            }
        }

        @Test void withoutTraceThereIsNoWireToSee() throws Exception {
            Browser.Tab tab = join(chat, "plain");
            assertEquals("true true 404", tab.ask("fetch('/trace').then(answer => "
                    + "[ui.toggle.hidden, ui.wire.hidden, answer.status].join(' '))"));
        }
    }

    /// Headless Chromium, driven over its DevTools protocol with the JDK's own WebSocket client.
    static class Browser {
        static final Optional<Path> PROGRAM =
                program("chromium", "chromium-browser", "google-chrome");
        /// axe-core, where ./run.sh test could get it.
        static final Path AXE = Path.of(System.getProperty("npm", ""), "axe-core", "axe.min.js");

        final List<Tab> tabs = new ArrayList<>();
        final Queue<String> events = new ConcurrentLinkedQueue<>();
        private final Path profile;
        private final Process process;
        private final java.net.http.WebSocket socket;
        private final Map<Integer, CompletableFuture<String>> answers = new ConcurrentHashMap<>();
        private int requests;

        Browser() throws Exception {
            this(List.of(PROGRAM.orElseThrow().toString(), "--headless", "--no-sandbox",
                    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                    "--disable-background-networking", "--disable-component-update",
                    "--disable-dev-shm-usage", "--remote-debugging-port=0", "about:blank",
                    "--user-data-dir="), "DevToolsActivePort", "(\\d+)\n(/.+)");
        }

        /// @param command of which the last word is still without the path of the profile
        /// @param file    in the profile that the browser writes when it is there
        /// @param address finds the port in the file, and the path if it has one
        Browser(List<String> command, String file, String address) throws Exception {
            profile = Files.createTempDirectory("chat-browser");
            var words = new ArrayList<>(command);
            words.add(words.removeLast() + profile);
            process = new ProcessBuilder(words)
                    .redirectError(ProcessBuilder.Redirect.DISCARD)
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
            Path written = profile.resolve(file);
            var port = new AtomicReference<Matcher>();
            eventually(true, () -> {
                if (!Files.exists(written)) return false;
                port.set(Pattern.compile(address).matcher(Files.readString(written)));
                return port.get().find();
            });
            String path = port.get().groupCount() > 1 ? port.get().group(2) : "/session";
            socket = HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(URI.create(
                    "ws://127.0.0.1:" + port.get().group(1) + path),
                    new java.net.http.WebSocket.Listener() {
                        private final StringBuilder text = new StringBuilder();

                        @Override
                        public CompletionStage<?> onText(java.net.http.WebSocket socket,
                                CharSequence part, boolean last) {
                            text.append(part);
                            if (last) {
                                heard(text.toString());
                                text.setLength(0);
                            }
                            socket.request(1);
                            return null;
                        }
                    }).get();
        }

        static Optional<Path> program(String... names) {
            return Stream.of(System.getenv("PATH").split(File.pathSeparator))
                    .flatMap(folder -> Stream.of(names).map(name -> Path.of(folder, name)))
                    .filter(Files::isExecutable).findFirst();
        }

        private void heard(String message) {
            Matcher id = Pattern.compile(
                    "^\\{(?:\"type\":\"(?:success|error)\",)?\"id\":(\\d+)").matcher(message);
            if (id.find()) answers.remove(Integer.valueOf(id.group(1))).complete(message);
            else events.add(message);
        }

        /// Sends a command, parameters as JSON, to the browser or to one tab; returns the answer.
        synchronized String send(String session, String method,
                String parameters) throws Exception {
            var answer = new CompletableFuture<String>();
            answers.put(++requests, answer);
            String to = session == null ? "" : ",\"sessionId\":\"" + session + '"';
            socket.sendText("{\"id\":%d,\"method\":\"%s\",\"params\":%s%s}".formatted(
                    requests, method, parameters, to), true).get();
            return answer.get(30, TimeUnit.SECONDS);
        }

        /// A string of an answer: `find(answer, "targetId")`
        static String find(String json, String key) {
            Matcher value = Pattern.compile('"' + key + "\":\"((?:[^\"\\\\]|\\\\.)*+)\"")
                    .matcher(json);
            assertTrue(value.find(), () -> "no " + key + " in " + json);
            String escapes = "ntrbf\"\\/", meanings = "\n\t\r\b\f\"\\/";
            return Pattern.compile("\\\\(u....|.)").matcher(value.group(1)).replaceAll(found -> {
                String escape = found.group(1);
                return Matcher.quoteReplacement(Character.toString(escape.length() > 1
                        ? Integer.parseInt(escape.substring(1), 16)
                        : meanings.charAt(escapes.indexOf(escape))));
            });
        }

        static String quote(String text) {
            return '"' + text.chars().mapToObj(c -> c < ' ' || "'\"\\".indexOf(c) >= 0 || c > '~'
                    ? "\\u%04x".formatted(c) : "" + (char) c).collect(Collectors.joining()) + '"';
        }

        Tab newTab() throws Exception {
            String context = find(send(null, "Target.createBrowserContext", "{}"),
                    "browserContextId");
            String target = find(send(null, "Target.createTarget",
                    "{\"url\":\"about:blank\",\"browserContextId\":\"" + context + "\"}"),
                            "targetId");
            Tab tab = new Tab(context, find(send(null, "Target.attachToTarget",
                    "{\"targetId\":\"" + target + "\",\"flatten\":true}"), "sessionId"));
            for (String domain : List.of("Page", "Runtime", "Log", "Audits"))
                tab.send(domain + ".enable", "{}");
            return tab;
        }

        /// A new tab, in a profile of its own: no storage in common with any other.
        Tab open(String url, String... scripts) throws Exception {
            Tab tab = newTab();
            tab.beforeEachPage("""
                    window.violations = [];
                    addEventListener('securitypolicyviolation', event =>
                      violations.push(event.violatedDirective + ' ' + event.blockedURI));
                    // the page's elements by id, with better names for some; its connections
                    window.ui = new Proxy({ log: 'chat-echo-area', input: 'chat-input',
                            more: 'new' },
                      { get: (names, name) => document.getElementById(names[name] ?? name) });
                    window.sockets = [];
                    window.traces = [];
                    const keep = (type, list) => class extends type {
                      constructor(...all) { super(...all); list.push(this); }
                    };
                    window.WebSocket = keep(WebSocket, sockets);
                    window.EventSource = keep(EventSource, traces);""");
            for (String script : scripts) tab.beforeEachPage(script);
            tab.navigate(url);
            tabs.add(tab);
            return tab;
        }

        /// What tabs reported: uncaught exceptions, and breaches of the Content Security Policy.
        List<String> complaints() {
            return events.stream().filter(event ->
                    event.contains("\"method\":\"Runtime.exceptionThrown\"")
                    || event.contains("ContentSecurityPolicy")
                    || event.contains("Content Security Policy")).toList();
        }

        void closeTabs() throws Exception {
            for (Tab tab : List.copyOf(tabs)) tab.close();
            events.clear();
        }

        void close() throws Exception { end("Browser.close"); }

        /// Has the browser end at this command, and deletes its profile.
        void end(String command) throws Exception {
            send(null, command, "{}");
            if (!process.waitFor(10, TimeUnit.SECONDS)) process.destroyForcibly().waitFor();
            try (Stream<Path> files = Files.walk(profile)) {
                files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
            }
        }

        class Tab {
            final String context, session;

            Tab(String context, String session) {
                this.context = context;
                this.session = session;
            }

            String send(String method, String parameters) throws Exception {
                String answer = Browser.this.send(session, method, parameters);
                assertFalse(answer.contains("\"error\":{"), answer);
                return answer;
            }

            void beforeEachPage(String script) throws Exception {
                send("Page.addScriptToEvaluateOnNewDocument", "{\"source\":" + quote(script) + "}");
            }

            void navigate(String url) throws Exception {
                String answer = send("Page.navigate", "{\"url\":" + quote(url) + "}");
                assertFalse(answer.contains("errorText"), answer);
            }

            /// The value of an expression, or of its promise, as a string.
            String ask(String expression) throws Exception {
                String answer = send("Runtime.evaluate", "{\"awaitPromise\":true,\"expression\":"
                        + quote("(async () => String(await (" + expression + ")))()") + "}");
                assertFalse(answer.contains("exceptionDetails"), () -> expression + ": " + answer);
                return find(answer, "value");
            }

            /// Waits until an expression is true. While the page changes there may be none to ask.
            void until(String expression) throws Exception {
                Instant deadline = Instant.now().plusSeconds(30);
                String last = "";
                do {
                    try {
                        last = ask(expression);
                        if (last.equals("true")) return;
                    } catch (AssertionError betweenPages) {
                        last = betweenPages.getMessage();
                    }
                    Thread.sleep(10);
                } while (Instant.now().isBefore(deadline));
                fail(expression + " is " + last + "\nin " + ask("document.body.innerText"));
            }

            /// What axe-core finds that keeps somebody from using the page as it is now; a line each.
            String barriers() throws Exception {
                send("Runtime.evaluate", "{\"expression\":" + quote(Files.readString(AXE)) + "}");
                return ask("""
                        axe.run().then(found => found.violations.flatMap(({ id, nodes }) =>
                          nodes.map(({ target, any }) => [id, target, ...any.map(
                            check => check.message)].join(' '))).join('\\n'))""");
            }

            void type(String text) throws Exception {
                send("Input.insertText", "{\"text\":" + quote(text) + "}");
            }

            void press(String key, int code) throws Exception {
                for (String type : List.of("rawKeyDown", "keyUp"))
                    send("Input.dispatchKeyEvent", ("{'type':'%s','key':'%s','code':'%s',"
                            + "'windowsVirtualKeyCode':%d}").formatted(type, key, key, code)
                            .replace('\'', '"'));
            }

            void say(String line) throws Exception {
                type(line);
                press("Enter", 13);
            }

            void resize(int width, int height) throws Exception {
                send("Emulation.setDeviceMetricsOverride", ("{'width':%d,'height':%d,"
                        + "'deviceScaleFactor':1,'mobile':false}").formatted(width, height)
                        .replace('\'', '"'));
            }

            void close() throws Exception {
                tabs.remove(this);
                Browser.this.send(null, "Target.disposeBrowserContext",
                        "{\"browserContextId\":\"" + context + "\"}");
            }
        }
    }

    /// Headless Firefox, driven over WebDriver BiDi. Of a tab it offers what `AnyBrowser` needs.
    static final class Firefox extends Browser {
        static final Optional<Path> PROGRAM = program("firefox-esr", "firefox");

        Firefox() throws Exception {
            super(List.of(PROGRAM.orElseThrow().toString(), "--headless", "--no-remote",
                    "--remote-debugging-port=0", "--profile", ""),
                    "WebDriverBiDiServer.json", "\"ws_port\": *(\\d+)");
            order("session.new", "{'capabilities':{}}");
            order("session.subscribe", "{'events':['log.entryAdded']}");
        }

        /// Sends a command, its parameters with `'` for `"`; returns the answer.
        private String order(String method, String parameters) throws Exception {
            String answer = send(null, method, parameters.replace('\'', '"'));
            assertTrue(answer.startsWith("{\"type\":\"success\""), answer);
            return answer;
        }

        @Override
        Tab newTab() throws Exception {
            String user = find(order("browser.createUserContext", "{}"), "userContext");
            return new FirefoxTab(user, find(order("browsingContext.create",
                    "{'type':'tab','userContext':'" + user + "'}"), "context"));
        }

        /// Errors, also those of the Content Security Policy; but not that no server is there.
        @Override
        List<String> complaints() {
            return events.stream().filter(event -> event.contains("\"level\":\"error\"")
                    && !event.contains("can’t establish a connection")
                    && !event.contains("was interrupted while the page was loading")).toList();
        }

        @Override
        void close() throws Exception { end("browser.close"); }

        private final class FirefoxTab extends Tab {
            FirefoxTab(String user, String id) { super(user, id); }

            @Override
            void beforeEachPage(String script) throws Exception {
                order("script.addPreloadScript", "{'contexts':['" + session
                        + "'],'functionDeclaration':" + quote("() => {" + script + "}") + "}");
            }

            @Override
            void navigate(String url) throws Exception {
                order("browsingContext.navigate", "{'context':'" + session
                        + "','wait':'complete','url':" + quote(url) + "}");
            }

            @Override
            String ask(String expression) throws Exception {
                String answer = order("script.evaluate", "{'awaitPromise':true,'target':{'context':'"
                        + session + "'},'expression':"
                        + quote("(async () => String(await (" + expression + ")))()") + "}");
                assertFalse(answer.contains("exceptionDetails"), () -> expression + ": " + answer);
                return find(answer, "value");
            }

            @Override
            void type(String text) throws Exception { keys(text.codePoints()); }

            /// The keys have numbers of Unicode's private use there.
            @Override
            void press(String key, int code) throws Exception {
                keys(IntStream.of(switch (key) {
                    case "Enter" -> 0xe006;
                    case "Escape" -> 0xe00c;
                    case "ArrowUp" -> 0xe013;
                    default -> throw new IllegalArgumentException(key);
                }));
            }

            private void keys(IntStream keys) throws Exception {
                order("input.performActions", keys.mapToObj(key -> quote(Character.toString(key)))
                        .map(key -> "{'type':'keyDown','value':" + key + "},{'type':'keyUp',"
                                + "'value':" + key + "}")
                        .collect(Collectors.joining(",", "{'context':'" + session + "','actions':"
                                + "[{'type':'key','id':'keys','actions':[", "]}]}")));
            }

            @Override
            void close() throws Exception {
                tabs.remove(this);
                order("browser.removeUserContext", "{'userContext':'" + context + "'}");
            }
        }
    }

    // ---- Taking pieces: the class WebSocket by itself -----------------------------------------

    static final String WEB_SOCKET = "\n    static final class WebSocket implements AutoCloseable {\n";

    /// The text of Chat.java's class WebSocket up to its closing brace, to be pasted into a class.
    static String webSocketClass() throws IOException {
        String chat = Files.readString(FOLDER.resolve("Chat.java"));
        int start = chat.indexOf(WEB_SOCKET);
        return chat.substring(start, chat.indexOf("\n    }\n", start) + "\n    }\n".length());
    }

    static String imports() throws IOException {
        return Files.readString(FOLDER.resolve("Chat.java")).lines()
                .filter(line -> line.startsWith("import ")).collect(Collectors.joining("\n"));
    }

    /// Compiles as for JDK 21; what the compiler has to say is a failure.
    static void compile(Path source, Path classes) {
        var said = new ByteArrayOutputStream();
        ToolProvider.getSystemJavaCompiler().run(null, null, said, "--release", "21",
                "-Xlint:all,-serial", "-Werror", "-d", classes.toString(), source.toString());
        assertEquals("", said.toString(StandardCharsets.UTF_8));
    }

    @Nested
    @DisplayName("The class WebSocket can be taken out")
    class Lifting {
        @Test
        @DisplayName("cut out by its braces it compiles alone, and its doc comment's example works")
        void theClassWorksAlone() throws Exception {
            String chat = Files.readString(FOLDER.resolve("Chat.java"));
            String comment = chat.substring(0, chat.indexOf(WEB_SOCKET));
            comment = comment.substring(comment.lastIndexOf("\n\n"));
            String example = comment.lines().filter(line -> line.startsWith("    ///     "))
                    .map(line -> line.substring(12)).collect(Collectors.joining("\n"));
            assertTrue(example.startsWith("WebSocket.serve(socket, webSocket -> {"), example);
            Path folder = temporary();
            Path source = Files.writeString(folder.resolve("Echo.java"), imports() + """

                class Echo {
                    public static void main(String[] none) throws IOException {
                        var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                        System.out.println(listener.getLocalPort());
                        while (true) {
                            Socket socket = listener.accept();
                            Thread.startVirtualThread(() -> {
                                %s
                            });
                        }
                    }
                """.formatted(example) + webSocketClass() + "}\n");
            compile(source, folder);
            try (Program echo = new Program(folder, JAVA, "-cp", ".", "Echo")) {
                int port = Integer.parseInt(echo.next(echo.out));
                try (Raw ada = new Raw(port).shakeHands("/any/path?at=all");
                        Raw bob = new Raw(port).shakeHands("/", "Sec-WebSocket-Protocol: chat",
                                "Sec-WebSocket-Extensions: permessage-deflate")) {
                    assertTrue(bob.head.contains("Extensions: permessage-deflate"), bob.head);
                    assertFalse(bob.head.contains("Sec-WebSocket-Protocol"), bob.head);
                    ada.hex("81 85 37 fa 21 3d 7f 9f 4d 51 58");
                    assertEquals("81 05 48 65 6c 6c 6f", ada.readHex(7));
                    bob.hex("c1 87 37 fa 21 3d c5 b2 ec f4 fe fd 21");
                    assertEquals("81 05 48 65 6c 6c 6f", bob.readHex(7));
                    ada.frame(0x02, bytes("00 ff")).frame(0x89, utf8("?")).frame(0x80);
                    assertEquals("8a 01 3f 82 02 00 ff", ada.readHex(7));
                    ada.bye();
                    assertEquals("1000", echo.next(echo.out));
                    assertTrue(bob.hex("81 05").assertClosed(1002).contains("§5.1"));
                }
                new Raw(port).shakeHands("/").close();
                assertEquals("1006", echo.next(echo.out));
                assertEquals("[#2 1002 a client must mask its frames (§5.1)]",
                        echo.err.toString());
            }
        }

        @Test
        @DisplayName("once more cut out, it is the client of its other self, and the server")
        void theClassIsClientAndServer() throws Exception {
            Path folder = temporary();
            Path source = Files.writeString(folder.resolve("Both.java"), imports() + """

                class Both {
                    public static void main(String[] none) throws Exception {
                        var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                        Thread.startVirtualThread(() -> {
                            try {
                                WebSocket.serve(listener.accept(), webSocket -> {
                                    while (webSocket.receive() instanceof WebSocket.Message message)
                                        webSocket.send(message);
                                });
                            } catch (IOException closed) {
                                System.out.println(closed);
                            }
                        });
                        URI uri = URI.create("ws://localhost:" + listener.getLocalPort());
                        try (var webSocket = WebSocket.connect(uri)) {
                            for (String text : List.of("Hello", "Hello".repeat(10_000))) {
                                webSocket.send(WebSocket.Message.text(text));
                                System.out.println(webSocket.receive().text().length());
                            }
                            webSocket.close(4000, "");
                            while (webSocket.receive() != null) continue;
                            System.out.println(webSocket.closeCode());
                        }
                    }
                """ + webSocketClass() + "}\n");
            compile(source, folder);
            try (Program both = new Program(folder, JAVA, "-cp", ".", "Both")) {
                assertEquals(0, both.exit());
                assertEquals("[5, 50000, 4000] []", both.out + " " + both.err);
            }
        }

        @Test
        @DisplayName("§10.2 alone, too, it keeps pages of other hosts out")
        void theClassKeepsForeignPagesOut() throws Exception {
            for (String origin : List.of("http://localhost:8080", "https://localhost", "null",
                    "http://localhost.evil", "http://evil/localhost", "http://evil"))
                try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                        Raw raw = new Raw(listener.getLocalPort())) {
                    Socket socket = listener.accept();
                    Thread.startVirtualThread(() -> Chat.WebSocket.serve(socket,
                            webSocket -> webSocket.close(4000, "in")));
                    String head = raw.ascii(request("/", "Origin: " + origin)).readHead();
                    boolean own = origin.matches("https?://localhost(:8080)?");
                    assertEquals(own ? "101" : "403", head.split(" ")[1], origin);
                    if (own) raw.hex("88 82 37 fa 21 3d 38 5a").assertClosed(4000);
                    else assertTrue(raw.readAll().contains("§10.2"));
                }
        }
    }

    // ---- The README's recipes -----------------------------------------------------------------

    static String readme() throws IOException {
        return Files.readString(FOLDER.resolve("README.md"));
    }

    @Nested
    @DisplayName("The README's recipes")
    class Recipes {
        /// For what runs a few seconds: to compile the source takes half the time.
        static final String SOON = "-XX:TieredStopAtLevel=1";

        private static String recipe(String name, int mostLines) throws IOException {
            Matcher block = Pattern.compile("(?s)```java\n((?:(?!```).)*\nclass " + name
                    + " .*?)```").matcher(readme());
            assertTrue(block.find(), "README.md has no recipe " + name);
            String recipe = block.group(1);
            assertTrue(recipe.lines().count() <= mostLines, name + " is long");
            assertTrue(recipe.lines().allMatch(line -> line.length() <= 100), name + " is wide");
            return recipe;
        }

        /// With the class WebSocket, so that it is whole.
        private static Path pasted(String name, String recipe) throws IOException {
            return Files.writeString(temporary().resolve(name + ".java"), imports() + "\n" + recipe
                    + "\nclass Chat {\n" + webSocketClass() + "}\n");
        }

        /// Runs a recipe, on free ports, as `java NAME.java`: first beside Chat.java, then with
        /// the class WebSocket pasted in and as JDK 21 takes it.
        private static void eachWay(String name, String recipe, Try trial) throws Exception {
            Path beside = temporary();
            Files.writeString(beside.resolve(name + ".java"), recipe);
            Files.copy(FOLDER.resolve("Chat.java"), beside.resolve("Chat.java"));
            Path whole = pasted(name, recipe);
            compile(whole, temporary());
            if (Runtime.version().feature() >= 22)
                try (Program program = new Program(beside, JAVA, SOON, name + ".java")) {
                    trial.of(program);
                    assertEquals("[]", program.err.toString());
                }
            try (Program program = new Program(whole.getParent(), JAVA, SOON, "--source", "21",
                    name + ".java")) {
                trial.of(program);
                assertEquals("[]", program.err.toString());
            }
        }

        interface Try { void of(Program program) throws Exception; }

        /// The port in the address that a recipe prints.
        private static int port(Program program) throws Exception {
            String line = program.next(program.out);
            assertTrue(line.matches("(ws|http)://localhost:\\d+"), line);
            return URI.create(line).getPort();
        }

        @Test
        @DisplayName("a hub: everybody gets what anybody sends, and who has gone is no obstacle")
        void hub() throws Exception {
            eachWay("Hub", recipe("Hub", 25).replace("12345", "0"), program -> {
                int port = port(program);
                for (int i = 0; i < 2; i++)
                    try (Raw ada = new Raw(port).shakeHands("/")) {
                        ada.hex("81 85 37 fa 21 3d 7f 9f 4d 51 58");
                        assertEquals("81 05 48 65 6c 6c 6f", ada.readHex(7));
                        try (Raw bob = new Raw(port).shakeHands("/")) {
                            bob.frame(0x82, (byte) 0xff);
                            for (Raw raw : List.of(ada, bob))
                                assertEquals("82 01 ff", raw.readHex(3));
                            bob.bye();
                        }
                        ada.hex("81 85 37 fa 21 3d 7f 9f 4d 51 58");
                        assertEquals("81 05 48 65 6c 6c 6f", ada.readHex(7));
                        ada.bye();
                    }
            });
        }

        @Test
        @DisplayName("a bot with connect, of at most 15 lines, answers in the chat")
        void bot() throws Exception {
            try (Chat chat = chat(); Raw ada = Raw.open(chat, "/")) {
                String recipe = recipe("Bot", 15).replace("12345", "" + chat.webSocketPort());
                eachWay("Bot", recipe, program -> {
                    assertTrue(ada.line().endsWith(" is now bot."));
                    ada.text("ping");
                    assertTrue(ada.line().endsWith(": ping"));
                    assertEquals("bot: pong", ada.line());
                    ada.text("ping me").text("x");
                    assertTrue(ada.line().endsWith(": ping me"));
                    assertTrue(ada.line().endsWith(": x"));
                    program.terminate();
                    program.exit();
                    assertEquals(" .... bot has left.", ada.line());
                });
            }
        }

        @ParameterizedTest
        @DisplayName("what is wrong is said in one line, and the program ends")
        @ValueSource(strings = {"Hub", "Bot"})
        void whatIsWrongIsSaidInOneLine(String name) throws Exception {
            try (var taken = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
                String number = "" + (name.equals("Bot") ? freePort() : taken.getLocalPort());
                String recipe = recipe(name, 25).replaceAll("\\b12345\\b", number);
                Path classes = temporary();
                compile(pasted(name, recipe), classes);
                try (Program program = new Program(classes, JAVA, "-cp", ".", name)) {
                    program.exit();
                    String all = program.err.toString();
                    assertEquals(1, program.err.size(), all);
                    assertTrue(all.contains(number), all);
                    assertEquals("[]", program.out.toString());
                }
            }
        }
    }

    // ---- The README ---------------------------------------------------------------------------

    @Nested
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    @DisplayName("The README is true")
    class Readme {
        /// What stands between ``` and ```, under which heading.
        private record Block(String kind, String heading, String text) { }

        private boolean testsRun;

        private static List<Block> blocks(String kind) throws IOException {
            var blocks = new ArrayList<Block>();
            String heading = "", open = null;
            var text = new StringBuilder();
            for (String line : readme().lines().toList())
                if (open != null && line.equals("```")) {
                    if (kind == null || open.equals(kind))
                        blocks.add(new Block(open, heading, text.toString()));
                    open = null;
                } else if (open != null) text.append(line).append('\n');
                else if (line.startsWith("#")) heading = line.replaceFirst("#+ ", "");
                else if (line.startsWith("```")) {
                    open = line.substring(3);
                    text.setLength(0);
                }
            assertNull(open, "a block is not closed");
            return blocks;
        }

        /// A folder with the project's files, in which commands may write.
        private static Path copy() throws IOException {
            Path folder = temporary();
            for (String name : List.of("Chat.java", "ChatTest.java", "run.sh", "README.md"))
                Files.copy(FOLDER.resolve(name), folder.resolve(name),
                        StandardCopyOption.COPY_ATTRIBUTES);
            return folder;
        }

        /// A shell, with the JDK of the tests in PATH.
        private static Program shell(Path folder, String command) throws IOException {
            return new Program(folder, "sh", "-c", "JAVA_HOME='" + System.getProperty("java.home")
                    + "'; PATH=\"$JAVA_HOME/bin:$PATH\"; export JAVA_HOME PATH\n" + command);
        }

        @Test
        @DisplayName("each block of code is of a kind that is tried here")
        void eachBlockIsTried() throws Exception {
            var kinds = new TreeMap<String, Integer>();
            for (Block block : blocks(null)) kinds.merge(block.kind, 1, Integer::sum);
            assertEquals(Set.of("sh", "console", "text", "diff", "java", "js", "nginx",
                    "dockerfile", "ini"), kinds.keySet());
            assertEquals(2, kinds.get("java"), "the recipes, which have their own tests");
        }

        // -- Commands --

        @ParameterizedTest
        @DisplayName("every command works")
        @MethodSource("commands")
        void everyCommandWorks(String block) throws Exception {
            Path folder = copy();
            String before = "";
            for (String line : block.replace("\\\n", " ").lines().toList()) {
                String command = line.replaceFirst(" +# .*", "");
                if (command.startsWith("export ")) before += command + "\n";
                else if (command.matches("(keytool|openssl) .*")) works(folder, before + command);
                else if (command.contains(" --connect ")) talks(folder, command);
                else if (command.matches("\\./run\\.sh test( .*)?")) runsTests(folder, command);
                else if (command.equals("./run.sh bench")) measures(folder, command);
                else if (command.contains("--redis")) joins(folder, before, command);
                else if (command.matches("(java Chat\\.java|\\./run\\.sh)( --.*)?"))
                    serves(folder, before, command);
                else fail("nobody tries this command: " + command);
            }
        }

        List<String> commands() throws IOException {
            return blocks("sh").stream().map(Block::text).toList();
        }

        @ParameterizedTest
        @DisplayName("what starts the chat starts the chat")
        @ValueSource(strings = {"java Chat.java", "./run.sh"})
        void theChatStarts(String command) throws Exception { serves(copy(), "", command); }

        private static List<String> works(Path folder, String command) throws Exception {
            try (Program program = shell(folder, command)) {
                program.process.waitFor(10 * PATIENCE, TimeUnit.SECONDS);   // it may compile first
                int code = program.exit();
                assertEquals(0, code, () -> command + "\n" + program.out + "\n" + program.err);
                return List.copyOf(program.out);
            }
        }

        /// The tests themselves are not run from within the tests, but one of them is, once.
        private void runsTests(Path folder, String command) throws Exception {
            for (String name : command.replace("./run.sh test", "").trim().split(" "))
                if (!name.isEmpty()) {
                    String[] parts = name.split("#");
                    Class<?> tests = Class.forName("ChatTest$" + parts[0]);
                    if (parts.length > 1) tests.getDeclaredMethod(parts[1]);
                }
            if (testsRun) return;
            List<String> out = works(folder, "./run.sh test CommandLine#theDefaults");
            assertEquals("1 passed, 0 failed", out.get(out.size() - 1));
            assertTrue(out.get(out.size() - 2).startsWith("on JDK "), out::toString);
            assertEquals(3, out.size(), "one line for the test");
            testsRun = true;
        }

        private static void measures(Path folder, String command) throws Exception {
            try (Program program = shell(folder, command)) {
                String all = program.next(program.err);             // its progress comes first
                assertFalse(all.contains("Exception") || all.contains("run.sh:"), all);
            }
        }

        /// What is typed is said, what is said is printed; at the end of the input it ends.
        private static void talks(Path folder, String command) throws Exception {
            try (Chat chat = chat(); Program program = shell(folder,
                    "exec " + command.replace("12345", "" + chat.webSocketPort()))) {
                program.process.outputWriter(StandardCharsets.UTF_8).append("Hello\n").close();
                assertTrue(program.next(program.out).matches("user-\\d+: Hello"));
                assertEquals(0, program.exit(), program.err::toString);
            }
        }

        /// Starts with a Redis at hand that has the password of the README.
        private static void joins(Path folder, String before, String command) throws Exception {
            assumeInstalled("redis-server");
            int port = freePort();
            try (Program engine = shell(folder, "exec redis-server --bind 127.0.0.1 --save '' "
                    + "--requirepass change-me --port " + port)) {
                eventually(true, () -> engine.out.toString().contains("Ready to accept"));
                serves(folder, before, command.replace("redis.example", "127.0.0.1:" + port));
            }
        }

        /// The page and the chat are there, until SIGTERM.
        private static void serves(Path folder, String before, String command) throws Exception {
            String here = command.replaceFirst("--host[ =]\\S+", "--host 127.0.0.1");
            try (Program program = shell(folder, before + "exec " + here
                    + " --http-port=0 --ws-port=0")) {
                Program.Ready line = program.ready();
                boolean tls = command.contains("--keystore");
                var context = javax.net.ssl.SSLContext.getInstance("TLS");
                context.init(null, tls ? trust(folder.resolve("chat.pem")) : null, null);
                try (HttpClient client = HttpClient.newBuilder().sslContext(context).build()) {
                    var address = URI.create(line.page());
                    assertEquals(tls ? "https" : "http", address.getScheme());
                    assertEquals(200, client.send(HttpRequest.newBuilder(address).build(),
                            HttpResponse.BodyHandlers.discarding()).statusCode());
                    var lines = new LinkedBlockingQueue<String>();
                    WebSocket socket = opening(client).buildAsync(
                            URI.create(line.webSockets() + "echo"), new WebSocket.Listener() {
                                @Override
                                public CompletionStage<?> onText(WebSocket from, CharSequence text,
                                        boolean last) {
                                    lines.add(text.toString());
                                    return null;
                                }
                            }).join();
                    socket.sendText("hello", true).join();
                    assertEquals("hello", lines.poll(PATIENCE, TimeUnit.SECONDS));
                    socket.abort();
                }
                program.terminate();
                assertEquals(143, program.exit());
                assertEquals("[]", program.out.toString());
            }
        }

        private static javax.net.ssl.TrustManager[] trust(Path certificate) throws Exception {
            var store = java.security.KeyStore.getInstance("PKCS12");
            store.load(null, null);
            try (var in = Files.newInputStream(certificate)) {
                store.setCertificateEntry("chat", java.security.cert.CertificateFactory
                        .getInstance("X.509").generateCertificate(in));
            }
            var trust = javax.net.ssl.TrustManagerFactory.getInstance("PKIX");
            trust.init(store);
            return trust.getTrustManagers();
        }

        @ParameterizedTest
        @DisplayName("what a command is said to show is what it shows")
        @MethodSource("dialogues")
        void whatACommandShows(String dialogue) throws Exception {
            String[] parts = dialogue.split("\n", 2);
            assertTrue(parts[0].startsWith("$ "), parts[0]);
            assertEquals(parts[1].stripTrailing(), String.join("\n", works(copy(),
                    parts[0].substring(2).replace("java Chat.java",
                    "java -Dstdout.encoding=UTF-8 Chat.java"))).stripTrailing());
        }

        List<String> dialogues() throws IOException {
            return blocks("console").stream().flatMap(block -> Stream.of(
                    block.text.split("(?m)^(?=\\$ )"))).toList();
        }

        // -- What one sees --

        private static final String LESSON = "What happens before the first message";

        /// A server of the lesson: the options it is started with, and what is shown of its trace.
        private record Part(List<String> options, List<String> items) { }

        private static List<Part> lesson() throws IOException {
            var parts = new ArrayList<Part>();
            for (Block block : blocks(null)) {
                boolean trace = block.kind.equals("text") && block.text.matches("(?s)\\d\\d:\\d\\d:.*");
                if (!block.heading.equals(LESSON)) assertFalse(trace, block.heading);
                else if (block.kind.equals("sh")) parts.add(new Part(List.of(block.text
                        .replace("java Chat.java ", "").strip().split(" ")), new ArrayList<>()));
                else if (trace)
                    parts.getLast().items.addAll(List.of(block.text.split("(?m)^(?=\\d\\d:)")));
            }
            return parts;
        }

        private static boolean isIncoming(String item) { return item.matches("(?s)\\S+ #\\d+ +in .*"); }

        /// What a client has sent when this is traced. Nothing of it may be left out with "…".
        private static byte[] sent(String item) {
            List<String> rows = item.lines().skip(1).map(row -> row.strip().split(" {2,}")[0])
                    .toList();
            if (item.contains("the opening handshake"))
                return utf8(String.join("\r\n", rows) + "\r\n\r\n");
            String all = "";
            for (String row : rows.subList(0, 4)) all += row.split(" = ")[0] + " ";
            return bytes(all);
        }

        @Test
        @DisplayName("the lesson's traces are what the server writes when they are replayed")
        void theTracesAreReal() throws Exception {
            List<Part> parts = lesson();
            assertEquals(List.of(List.of("--trace", "--no-deflate"), List.of("--trace")),
                    parts.stream().map(Part::options).toList());
            List<String> items = parts.stream().flatMap(part -> part.items.stream()).toList();
            assertEquals(5, items.size(), items.toString());
            assertEquals(items.size(), items.stream().distinct().count());
            for (Part part : parts)
                try (Program program = Program.chat(part.options.toArray(String[]::new))) {
                    Program.Ready ports = program.ready();
                    boolean fiveDigits = false;
                    while (!fiveDigits)
                        fiveDigits = replay(part.items, items.get(0), ports);
                    program.terminate();
                    program.exit();
                    String written = normal(String.join("\n", program.err)
                            .replace(":" + ports.httpPort(), ":8080")) + "\n";
                    int at = 0;
                    for (String item : part.items) {
                        int next = written.indexOf(normal(item), at);
                        assertTrue(next >= 0, () -> item + "\n" + written);
                        at = next + 1;
                    }
                }
        }

        /// @return whether the name was as long as that of the lesson; else nothing was sent
        private static boolean replay(List<String> items, String handshake, Program.Ready ports)
                throws Exception {
            try (Raw raw = new Raw(ports.webSocketPort())) {
                String head = new String(sent(handshake), StandardCharsets.UTF_8);
                raw.ascii(head.replace(":8080", ":" + ports.httpPort())).readHead();
                int length = raw.line().length();
                raw.line();                                             // who has joined
                if (length != "you user-65541".length()) {
                    raw.bye();                                          // so the room is empty
                    return false;
                }
                for (String item : items)
                    if (isIncoming(item) && !item.equals(handshake)) {
                        raw.write(sent(item));
                        assertTrue(raw.line().endsWith(" Hello"));
                    }
                return true;
            }
        }

        /// Without what differs from one run to the next.
        private static String normal(String trace) {
            return trace.replaceAll("(?m)^\\d\\d:\\d\\d:\\d\\d\\.\\d{3} #\\d+ +", "TIME #N ")
                    .replaceAll("(Host|Origin): (\\S+) +", "$1: $2  ")      // a port's length
                    .replaceAll("user-\\d{5}", "user-NNNNN")
                    .replaceAll("… 3\\d 3\\d 3\\d", "… NN NN NN");
        }

        @Test
        @DisplayName("the lesson's traces are what the server writes beside a browser")
        void theTracesAreThoseOfABrowser() throws Exception {
            assumeTrue(Browser.PROGRAM.isPresent(), "Chromium is not installed");
            Browser browser = new Browser();
            try {
                for (Part part : lesson())
                    try (Program program = Program.chat(part.options.toArray(String[]::new))) {
                        Program.Ready ports = program.ready();
                        var tab = browser.newTab();
                        tab.navigate(ports.page());
                        tab.until("document.querySelector('.connected') !== null");
                        tab.say("Hello");
                        tab.until("document.querySelector('.said') !== null");
                        tab.close();
                        program.terminate();
                        program.exit();
                        List<String> written = List.of(unkeyed(String.join("\n", program.err)
                                .replace(":" + ports.httpPort(), ":8080")
                                .replace(":" + ports.webSocketPort(), ":12345")).split("\n"));
                        for (String item : part.items) {
                            var rest = written.iterator();
                            for (String line : unkeyed(item).split("\n")) {
                                boolean found = false;
                                while (!found && rest.hasNext()) found = line.equals(rest.next());
                                assertTrue(found, () -> line + "\nof " + item + "\nin "
                                        + String.join("\n", written));
                            }
                        }
                    }
            } finally {
                browser.close();
            }
        }

        /// Without what depends on keys by chance, or on how long a name is.
        private static String unkeyed(String trace) {
            return normal(trace).replaceAll("user-\\d+", "user-NNNNN")
                    .replaceAll("… [0-9a-f]{2} (3\\d|2d) 3\\d", "… NN NN NN")
                    .replaceAll("(?m)^    \\S+ +(= 0 00\\S+ +)?(MASK=0 )", "    LL $2")
                    .replaceAll("TEXT frame, \\d+ bytes|length=(13|14|2\\d) ", "")
                    .replaceAll("page=[0-9a-f]+ +", "page=P ")
                    .replaceAll("(Key|Accept): \\S+ +", "$1: ")
                    .replaceAll("(?m)^( {4})[0-9a-f ]+ (masking key|payload, masked)", "$1$2")
                    .replaceAll("[0-9a-f]{2} \\^ [0-9a-f]{2}", "x ^ y");
        }

        @Test
        @DisplayName("the picture of a frame is that of the code, and so are the lengths")
        void theFrameIsThatOfTheCode() throws Exception {
            String picture = blocks("text").stream().map(Block::text).filter(text ->
                    text.contains("|opcode |")).findFirst().orElseThrow();
            String chat = Files.readString(FOLDER.resolve("Chat.java")).lines().map(line ->
                    line.replaceFirst("^ +///", "").strip()).collect(Collectors.joining("\n"));
            assertTrue(chat.contains(picture.lines().map(String::strip)
                    .collect(Collectors.joining("\n"))), picture);
            Matcher length = Pattern.compile("([\\d,]+) is\\s+`((?:[0-9a-f]{2} ?)+)`")
                    .matcher(section(LESSON));
            int found = 0;
            for (; length.find(); found++) {
                long number = Long.parseLong(length.group(1).replace(",", ""));
                byte[] header = new Chat.WebSocket.Header(true, 0, 2, false, 0, number).encode();
                assertEquals("82 " + length.group(2), hex(header));
            }
            assertEquals(2, found);
        }

        @Test
        @DisplayName("the picture's words are the page's and the chat's")
        void thePictureIsLikeThePage() throws Exception {
            String picture = blocks("text").stream().map(Block::text).filter(text ->
                    text.contains("say something")).findFirst().orElseThrow();
            String chat = Files.readString(FOLDER.resolve("Chat.java"));
            for (String part : List.of("connected as ", " here", "say something", "Send", "lobby",
                    "has joined.", "is now "))
                assertTrue(picture.contains(part) && chat.contains(part), part);
        }

        // -- Tables --

        private static String section(String heading) throws IOException {
            return readme().split("(?m)^## " + heading + "\n")[1].split("(?m)^## ")[0];
        }

        /// The rows of the table under a heading, each as its cells.
        private static List<List<String>> table(String heading) throws IOException {
            return section(heading).lines().filter(line -> line.startsWith("|")).skip(2).map(line ->
                    Stream.of(line.split("\\|")).skip(1).map(String::strip).toList()).toList();
        }

        private static List<String> code(String text) {
            return Pattern.compile("`([^`]+)`").matcher(text).results().map(found ->
                    found.group(1)).toList();
        }

        /// Chat and what is nested in it, by simple name.
        private static Map<String, Class<?>> classes() {
            var classes = new TreeMap<String, Class<?>>();
            var left = new ArrayDeque<Class<?>>(List.of(Chat.class));
            while (!left.isEmpty()) {
                classes.put(left.peek().getSimpleName(), left.peek());
                left.addAll(List.of(left.pop().getDeclaredClasses()));
            }
            return classes;
        }

        /// Of "Class.member" or "member": whether there is such a class, method or field.
        private static boolean exists(String name) {
            String[] parts = name.replaceAll("\\(.*", "").split("\\.");
            String member = parts[parts.length - 1];
            return classes().containsKey(name) || classes().values().stream()
                    .filter(c -> parts.length == 1 || c.getSimpleName().equals(parts[0]))
                    .anyMatch(c -> Stream.concat(Stream.of(c.getDeclaredMethods()),
                            Stream.of(c.getDeclaredFields()))
                            .anyMatch(m -> m.getName().equals(member)));
        }

        @Test
        @DisplayName("every method that the section table names is there")
        void theSectionTableNamesMethods() throws Exception {
            List<List<String>> rows = table("Read it");
            assertTrue(rows.size() >= 15, rows.toString());
            String source = Files.readString(FOLDER.resolve("Chat.java"));
            for (List<String> row : rows) {
                List<String> names = code(row.get(2));
                assertFalse(names.isEmpty(), row.toString());
                for (String name : names) assertTrue(exists(name), name);
                Matcher section = Pattern.compile("§\\d+(\\.\\d+)*").matcher(row.get(0));
                while (section.find())
                    assertTrue(source.contains(section.group()), section.group());
            }
        }

        @Test
        @DisplayName("every name in the map and in the table of pieces is there")
        void everyNameIsThere() throws Exception {
            for (String name : code(section("Read it"))) assertTrue(exists(name), name);
            List<List<String>> rows = table("Take pieces");
            assertTrue(rows.size() >= 8, rows.toString());
            for (List<String> row : rows)
                for (String name : code(row.get(1))) assertTrue(exists(name), name);
            assertTrue(exists("send") && exists("Message.text"));
            for (String name : code(section("What happens before the first message")))
                if (name.matches("[A-Z][a-z]\\w*\\.\\w+")) assertTrue(exists(name), name);
        }

        @Test
        @DisplayName("the tables have every option and every constant, with the value that it has")
        void theLimitsAreTheLimits() throws Exception {
            var named = new TreeSet<String>();
            for (List<String> row : table("Options")) {
                List<String> names = code(row.get(0));
                List<String> values = row.size() < 3 ? List.of() : List.of(row.get(2).split(", "));
                for (int i = 0; i < names.size(); i++) {
                    named.add(names.get(i));
                    if (names.get(i).equals("--max-memory"))
                        assertEquals("a quarter of the heap", values.get(i));
                    else if (names.get(i).matches("--(max-.*|.*-port)"))
                        assertEquals(actual(names.get(i)), stated(names.get(i), values.get(i)),
                                row.toString());
                }
            }
            for (List<String> row : table("Constants")) {
                List<String> values = List.of(row.get(1).split(", ")), names = code(row.get(2));
                assertEquals(names.size(), values.size(), row.toString());
                for (int i = 0; i < names.size(); i++) {
                    named.add(names.get(i));
                    assertEquals(actual(names.get(i)), stated(names.get(i), values.get(i)),
                            row.toString());
                }
            }
            for (Class<?> c : List.of(Chat.class, Chat.WebSocket.class, Chat.Rooms.class))
                for (var field : c.getDeclaredFields())
                    if (field.getType() == int.class || field.getType() == long.class)
                        if (field.getName().matches("[A-Z][A-Z_]+")
                                && IntStream.range(0, 16).mapToObj(Chat.WebSocket::nameOf)
                                        .noneMatch(field.getName()::equals))
                            assertTrue(named.contains(c.getSimpleName() + "." + field.getName()),
                                    field.getName() + " is not in the table");
            var fields = new ArrayList<>(List.of(Chat.Options.class.getDeclaredFields()));
            fields.addAll(List.of(Chat.WebSocket.Settings.class.getDeclaredFields()));
            for (var field : fields)
                if (field.getName().startsWith("max"))
                    assertTrue(named.contains("--" + field.getName().replaceAll("[A-Z]", "-$0")
                            .toLowerCase(Locale.ROOT)), field.getName() + " is not in the table");
            var all = new Chat.Options().settings;
            assertEquals(Runtime.getRuntime().maxMemory() / 4, all.memory.limit);
            assertTrue(named.contains("--max-memory"));
        }

        /// The default of an option, the value of a constant.
        private static Object actual(String name) throws Exception {
            if (name.startsWith("--")) {
                String field = Pattern.compile("-(\\w)").matcher(name.substring(2)).replaceAll(
                        letter -> letter.group(1).toUpperCase(Locale.ROOT));
                var options = new Chat.Options();
                boolean ofAll = List.of("maxMessage", "maxQueue").contains(field);
                return ofAll ? field(Chat.WebSocket.Settings.class, field).get(options.settings)
                        : field(Chat.Options.class, field).get(options);
            }
            String[] parts = name.split("\\.");
            return field(classes().get(parts[0]), parts[1]).get(null);
        }

        /// `8 KiB` → 8192. A long constant is in nanoseconds.
        private static Object stated(String name, String value) throws Exception {
            String[] parts = value.split(" ");
            long number = Long.parseLong(parts[0].replace(",", ""));
            boolean nanoseconds = actual(name) instanceof Long;
            long all = number * switch (parts.length == 1 ? "" : parts[1]) {
                case "KiB" -> 1 << 10;
                case "MiB" -> 1 << 20;
                case "µs" -> 1_000;
                case "s" -> nanoseconds ? 1_000_000_000 : 1;
                case "ms" -> nanoseconds ? 1_000_000 : 1;
                default -> 1;
            };
            return nanoseconds ? (Object) all : (Object) (int) all;
        }

        @Test
        @DisplayName("the options named are those of --help, and all of them")
        void theOptionsAreThose() throws Exception {
            var named = new TreeSet<String>();
            Matcher option = Pattern.compile("`(--[a-z-]+)`").matcher(readme());
            while (option.find()) named.add(option.group(1));
            var known = new TreeSet<String>();
            Matcher help = Pattern.compile("--[a-z-]+").matcher(Chat.Options.USAGE);
            while (help.find()) known.add(help.group());
            assertEquals(known, named);
        }

        @Test
        @DisplayName("the ports are the defaults")
        void thePortsAreTheDefaults() throws Exception {
            var options = new Chat.Options();
            Matcher address = Pattern.compile("(http|ws)://localhost:(\\d+)").matcher(readme());
            int found = 0;
            for (; address.find(); found++)
                assertEquals(address.group(1).equals("ws") ? options.wsPort : options.httpPort,
                        Integer.parseInt(address.group(2)));
            assertTrue(found > 5);
        }

        // -- Changes, pages, the proxy --

        @Test
        @DisplayName("the new command can be added as shown, and works")
        void theNewCommandWorks() throws Exception {
            String diff = blocks("diff").get(0).text, chat = Files.readString(
                    FOLDER.resolve("Chat.java"));
            String old = diff.lines().filter(line -> !line.startsWith("+")).map(l -> l.substring(1))
                    .collect(Collectors.joining("\n", "", "\n"));
            String changed = diff.lines().map(line -> line.substring(1))
                    .collect(Collectors.joining("\n", "", "\n"));
            int at = chat.indexOf(old);
            assertTrue(at > 0 && chat.indexOf(old, at + 1) < 0, "does not fit once:\n" + old);
            Path folder = temporary();
            compile(Files.writeString(folder.resolve("Chat.java"), chat.substring(0, at) + changed
                    + chat.substring(at + old.length())), folder);
            try (Program program = new Program(folder, JAVA, "-cp", ".", "Chat", "--http-port=0",
                    "--ws-port=0")) {
                int port = program.ready().webSocketPort();
                try (Raw ada = new Raw(port).shakeHands("/", PRESENCE)) {
                    ada.line();
                    try (Raw bob = new Raw(port).shakeHands("/", PRESENCE)) {
                        assertEquals(bob.line(), ada.line());             // so he is there
                        ada.text("/nick ada").text("/shout hello, größe");
                        for (Raw raw : List.of(ada, bob)) {
                            assertTrue(raw.line().endsWith(" is now ada."));
                            assertEquals("ada: HELLO, GRÖSSE", raw.line());
                        }
                    }
                }
            }
        }

        @Test
        @DisplayName("the client of five lines says its line, hears it, and tells how it ended")
        void theClientOfFiveLines() throws Exception {
            assumeInstalled("node");
            String script = blocks("js").get(0).text;
            assertTrue(script.lines().count() <= 5, script);
            Chat chat = chat();
            try (Program program = new Program(FOLDER, "node", "--experimental-websocket", "-e",
                    script.replace("12345", "" + chat.webSocketPort()))) {
                assertTrue(program.next(program.out).matches("user-\\d+: Hello from five lines"));
                chat.close();
                assertEquals("closed with 1001", program.next(program.out));
            }
        }

        @Test
        @DisplayName("the Dockerfile's steps make a folder from which the chat starts")
        void theDockerfileStarts() throws Exception {
            Path root = temporary(), folder = Files.createDirectory(root.resolve("chat"));
            String before = "unset HOME; ", command = "";
            for (String line : blocks("dockerfile").get(0).text.lines().toList()) {
                String rest = line.replaceFirst("^\\S+ ", "").replace("/chat", folder.toString());
                switch (line.split(" ")[0]) {
                    case "FROM" -> assertTrue(rest.matches("\\S+:2[1-9]"), rest);
                    case "COPY" -> works(FOLDER, "cp " + rest);
                    case "ENV" -> before += "export " + rest + "; ";
                    case "RUN" -> works(root, before + rest);
                    case "USER" -> assertNotEquals("root", rest);
                    case "ENTRYPOINT" -> command = rest.replaceAll("[\\[\\]\",]", "");
                    default -> fail("nobody tries this: " + line);
                }
            }
            try (Stream<Path> made = Files.walk(folder)) {
                assertTrue(made.anyMatch(file -> file.endsWith("archive")));
            }
            serves(root, before, command);
        }

        @Test
        @DisplayName("systemd takes the unit, and what it starts starts")
        void systemdTakesTheUnit() throws Exception {
            assumeInstalled("systemd-analyze");
            Path folder = temporary();
            String unit = blocks("ini").get(0).text.replace("/opt/chat", FOLDER.toString());
            Files.writeString(folder.resolve("chat.service"), unit);
            List<String> complaints = works(folder, "systemd-analyze verify --man=no "
                    + folder.resolve("chat.service") + " 2>&1");
            assertEquals(List.of(), complaints.stream().filter(line ->
                    line.contains("chat.service")).toList());
            Matcher start = Pattern.compile("ExecStart=(.*)").matcher(unit);
            assertTrue(start.find());
            serves(folder, "export XDG_CACHE_HOME='" + temporary() + "'; ", start.group(1));
        }

        @Test
        @DisplayName("nginx takes the lines for a proxy, and makes one port of both")
        void nginxMakesOnePort() throws Exception {
            assumeInstalled("nginx");
            Path folder = temporary();
            String lines = blocks("nginx").get(0).text;
            String keys = blocks("sh").stream().map(Block::text).filter(text ->
                    text.contains("openssl ")).findFirst().orElseThrow();
            works(folder, keys.replaceFirst("(?m)^java .*", ""));
            works(folder, nginx(folder, lines) + " -t");
            String origin = "https://chat.example";
            try (Chat chat = chat("--origin", origin)) {
                int port = freePort();
                String plain = lines.replace("listen 443 ssl", "listen 127.0.0.1:" + port)
                        .replaceAll("ssl_.*;", "").replace("12345", "" + chat.webSocketPort())
                        .replace("8080", "" + chat.httpPort());
                try (Program proxy = shell(folder, "exec " + nginx(folder, plain))) {
                    eventually(true, () -> {
                        try (Socket socket = new Socket("127.0.0.1", port)) {
                            return socket.isConnected();
                        } catch (ConnectException notYet) {
                            return false;
                        }
                    });
                    assertTrue(get(port, "/chat/tea").contains("chat-echo-area"));
                    String[] browser = {"Host: chat.example", "Origin: " + origin,
                        PRESENCE};
                    try (Raw ada = new Raw(port).shakeHands("/chat/tea", browser)) {
                        assertTrue(ada.line().endsWith(" has joined."));
                        assertTrue(ada.text("hello").line().endsWith(": hello"));
                        ada.bye();
                    }
                    proxy.terminate();
                    proxy.exit();
                }
            }
        }

        @Test
        @DisplayName("nginx takes the lines for several servers")
        void nginxSharesOut() throws Exception {
            assumeInstalled("nginx");
            Path folder = temporary();
            String lines = blocks("nginx").get(0).text.replaceFirst("map.*chat_port.*", "")
                    .replaceAll("ssl_.*;", "").replace(" ssl;", ";")
                    .replace("http://127.0.0.1:$chat_port", "http://$chat_group");
            works(folder, nginx(folder, blocks("nginx").get(1).text + lines) + " -t");
        }

        /// The command that runs nginx in the foreground with these lines.
        private static String nginx(Path folder, String lines) throws IOException {
            Files.writeString(folder.resolve("nginx.conf"), """
                    daemon off; master_process off; pid nginx.pid; error_log stderr;
                    events { }
                    http {
                        access_log off;
                        client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c;
                        uwsgi_temp_path d; scgi_temp_path e;
                        %s
                    }
                    """.formatted(lines));
            return "/usr/sbin/nginx -e stderr -p '" + folder + "' -c nginx.conf";
        }

        private static String get(int port, String path) throws IOException {
            try (Raw raw = new Raw(port)) {
                return raw.ascii("GET " + path + " HTTP/1.1\r\nHost: chat.example\r\n"
                        + "Connection: close\r\n\r\n").readAll();
            }
        }
    }

    // ---- The load generator, and what can be counted without a clock --------------------------

    @Nested
    @DisplayName("./run.sh bench")
    class Benchmarks {
        @Test
        @DisplayName("finds nothing lost, doubled or reordered, under any load")
        void findsNothingLost() throws Exception {
            try (Bench.Server server = Bench.Server.start()) {
                for (var plan : List.of(new Bench.Plan("echo", "", 10, 10, 4, 0),
                        new Bench.Plan("broadcast", "", 50, 3, 2, 0),
                        new Bench.Plan("rate", "", 50, 3, 0, 100),
                        new Bench.Plan("idle", "", 10, 0, 0, 0),
                        new Bench.Plan("storm", "", 4, 0, 0, 0),
                        new Bench.Plan("broadcast", "", 50, 3, 2, 0).first())) {
                    var row = Bench.measure(plan, server, 0.1);
                    assertTrue(Bench.isClean(row), row::toString);
                    assertTrue(plan.kind().equals("idle") || (long) row.get("received") > 0,
                            row::toString);
                }
            }
        }

        @ParameterizedTest(name = "{0}: {1} lost, {2} doubled, {3} reordered")
        @DisplayName("counts what is lost, doubled or reordered")
        @CsvSource({"0 1 2 3, 0, 0, 0", "0 2, 1, 0, 0", "2 3, 2, 0, 0", "0 0 1, 0, 1, 0",
            "0 1 2 0 3, 0, 1, 0", "0 1 1 1, 0, 2, 0", "1 0 2, 0, 0, 1", "2 1 0 3, 0, 0, 2",
            "0 3 1 4, 1, 0, 1", "1 0 0 2, 0, 1, 1", "0 63 0 62 62, 61, 2, 1",
            "0 64 0 1 1, 62, 1, 2", "0 70 7, 68, 0, 1", "0 9000000 9000001, 8999999, 0, 0"})
        void countsLostDoubledReordered(String lines, long lost, long doubled, long reordered) {
            var tally = new Bench.Tally();
            var heard = new Bench.Tally.Heard();
            for (String line : lines.split(" ")) tally.line(heard, Integer.parseInt(line));
            assertEquals(List.of(lost, doubled, reordered),
                    List.of(tally.lost, tally.doubled, tally.reordered));
            assertEquals(lines.split(" ").length, tally.received);
        }

        /// An echo that swallows the third line, says the fifth twice and the seventh late.
        @Test
        @DisplayName("shows what a bad server does")
        void showsWhatABadServerDoes() throws Exception {
            try (var listener = new ServerSocket(0, 9, InetAddress.getLoopbackAddress())) {
                Thread.startVirtualThread(() -> serve(listener, webSocket -> {
                    Chat.WebSocket.Message late = null;
                    for (int i = 1; ; i++) {
                        Chat.WebSocket.Message line = webSocket.receive();
                        if (line == null) return;
                        if (i != 3 && i != 7) webSocket.send(line);
                        if (i == 5 || i == 8) webSocket.send(i == 5 ? line : late);
                        if (i == 7) late = line;
                    }
                }));
                var server = Bench.Server.at("" + listener.getLocalPort(), "/,/");
                var row = Bench.measure(new Bench.Plan("echo", "badly", 2, 2, 4, 0), server, 0.1);
                assertEquals(List.of(2L, 2L, 2L), Stream.of("lost", "doubled", "reordered")
                        .map(row::get).toList());
                assertFalse(Bench.isClean(row));
            }
        }

        @Test
        @DisplayName("--against measures another server, at its paths")
        void againstMeasuresAnotherServer() throws Exception {
            var paths = ConcurrentHashMap.<String>newKeySet();
            try (var listener = new ServerSocket(0, 9, InetAddress.getLoopbackAddress())) {
                Thread.startVirtualThread(() -> serve(listener, webSocket -> {
                    paths.add(webSocket.path());
                    while (webSocket.receive() instanceof Chat.WebSocket.Message message)
                        webSocket.send(message);
                }));
                String port = "127.0.0.1:" + listener.getLocalPort();
                assertTrue(Bench.run("--against", port, "--paths", "/room,/mirror", "--seconds",
                        "0.1", "echo", "storm"));
                assertEquals(Set.of("/mirror"), paths);
            }
            for (String wrong : List.of("http", "localhost:", "localhost:65536", "localhost:-1"))
                assertThrows(IllegalArgumentException.class, () -> Bench.Server.at(wrong, "/,/e"));
        }

        @Test
        @DisplayName("measures the first seconds from the first connection on")
        void measuresTheFirstSeconds() throws Exception {
            try (Chat chat = chat()) {
                var server = Bench.Server.at("" + chat.webSocketPort(), Bench.Server.paths());
                var row = Bench.measure(new Bench.Plan("storm", "", 4, 0, 0, 0).first(), server, 1);
                long late = (long) row.get("received") - (long) row.get("measured");
                // All count, but for the few that ended while the measuring was told to end.
                assertTrue((long) row.get("measured") > 4 * late, row::toString);
            }
        }

        @ParameterizedTest
        @DisplayName("a message to many is encoded once, and compressed once")
        @ValueSource(strings = {"X-Plain: yes", "Sec-WebSocket-Extensions: permessage-deflate"})
        void aMessageToManyIsEncodedOnce(String header) throws Exception {
            var webSockets = new LinkedBlockingQueue<Chat.WebSocket>();
            try (var listener = new ServerSocket(0, 99, InetAddress.getLoopbackAddress())) {
                Thread.startVirtualThread(() -> serve(listener, webSocket -> {
                    webSockets.add(webSocket);
                    while (webSocket.receive() != null) continue;
                }));
                var message = Chat.WebSocket.Message.text(" A line.".repeat(10_000));
                var many = new ArrayList<Raw>();
                while (many.size() < 20) many.add(new Raw(listener.getLocalPort())
                        .shakeHands("/", header));
                eventually(20, webSockets::size);
                webSockets.take().send(message);                // this one may cost something
                long before = allocated();
                for (Chat.WebSocket webSocket : webSockets) webSocket.send(message);
                long each = (allocated() - before) / 19;
                assertTrue(each < 5_000, each + " bytes for each receiver");
                assertEquals(many.get(0).frame().toString(), many.get(19).frame().toString());
                for (Raw raw : many) raw.close();
            }
        }

        /// Bytes that this thread has ever asked for.
        private static long allocated() {
            return ManagementFactory.getPlatformMXBean(com.sun.management.ThreadMXBean.class)
                    .getCurrentThreadAllocatedBytes();
        }

        @Test
        @DisplayName("what piles up while a write lasts is written at once")
        void whatPilesUpIsWrittenAtOnce() throws Exception {
            var writes = new AtomicInteger();
            var gate = new Semaphore(1);                        // for the 101
            var webSockets = new LinkedBlockingQueue<Chat.WebSocket>();
            try (var listener = new SlowListener(writes, gate)) {
                Thread.startVirtualThread(() -> serve(listener, webSocket -> {
                    webSockets.add(webSocket);
                    while (webSocket.receive() != null) continue;
                }));
                try (Raw raw = new Raw(listener.getLocalPort()).shakeHands("/")) {
                    Chat.WebSocket webSocket = webSockets.take();
                    webSocket.send(Chat.WebSocket.Message.text("first"));
                    eventually(2, writes::get);                 // the 101, and this one begins
                    for (int i = 0; i < 1000; i++)
                        webSocket.send(Chat.WebSocket.Message.text("line " + i));
                    gate.release(1000);
                    assertEquals("first", raw.line());
                    for (int i = 0; i < 1000; i++) assertEquals("line " + i, raw.line());
                    assertEquals(3, writes.get());
                }
            }
        }

        /// Its sockets count the writes, and each needs a permit.
        private static final class SlowListener extends ServerSocket {
            private final AtomicInteger writes;
            private final Semaphore gate;

            SlowListener(AtomicInteger writes, Semaphore gate) throws IOException {
                super(0, 9, InetAddress.getLoopbackAddress());
                this.writes = writes;
                this.gate = gate;
            }

            @Override
            public Socket accept() throws IOException {
                var socket = new Socket() {
                    @Override
                    public OutputStream getOutputStream() throws IOException {
                        OutputStream out = super.getOutputStream();
                        return new OutputStream() {
                            @Override
                            public void write(int one) throws IOException {
                                write(new byte[] {(byte) one}, 0, 1);
                            }

                            @Override
                            public void write(byte[] bytes, int from, int count)
                                    throws IOException {
                                writes.incrementAndGet();
                                gate.acquireUninterruptibly();
                                out.write(bytes, from, count);
                            }
                        };
                    }
                };
                implAccept(socket);
                return socket;
            }
        }

        private static void serve(ServerSocket listener, Chat.WebSocket.Handler handler) {
            while (!listener.isClosed()) try {
                Socket socket = listener.accept();
                Thread.startVirtualThread(() -> Chat.WebSocket.serve(socket, handler));
            } catch (IOException closed) {
                return;
            }
        }
    }

    // ---- How long Chat.java may be ------------------------------------------------------------

    @Nested
    @DisplayName("Chat.java keeps its budgets")
    class Budgets {
        /// Lines that are not blank. Above that a method does too much: find what.
        static final int LONGEST = 40, MEDIAN = 12;

        @Test
        @DisplayName("a method is read at a glance")
        void methodsAreShort() throws Exception {
            List<Map.Entry<Integer, String>> methods = methods();
            assertTrue(methods.size() > 100, methods::toString);
            assertEquals(List.of(), methods.stream().filter(m -> m.getKey() > LONGEST).toList());
            int median = methods.get(methods.size() / 2).getKey();
            assertTrue(median <= MEDIAN, "half of them have over " + median + " lines");
        }

        /// Lines that are not blank, of each part that has grown large. Above that something is
        /// too complicated: find what, before you raise it.
        static final Map<String, Integer> PARTS = Map.of("Chat", 260, "WebSocket", 1685,
                "Explained", 265, "Resp", 145, "Redis", 225, "Rooms", 416, "Web", 250,
                "Options", 105, "Ports", 180, "PAGE", 301);

        @Test
        @DisplayName("a part does not grow unseen")
        void partsAreNoLargerThanTheyHaveToBe() throws Exception {
            var sizes = new HashMap<String, Integer>();
            Pattern start = Pattern.compile(
                    "    (?! )[a-z ]*(?:(?:class|record|interface) (\\w+)|String (PAGE) = ).*");
            String part = "Chat";
            for (String line : Files.readAllLines(FOLDER.resolve("Chat.java"))) {
                Matcher begins = start.matcher(line);
                if (begins.matches())
                    part = Objects.requireNonNullElse(begins.group(1), begins.group(2));
                if (!line.isBlank()) sizes.merge(part, 1, Integer::sum);
                if (line.equals("    }")) part = "Chat";
            }
            PARTS.forEach((name, most) -> assertTrue(sizes.getOrDefault(name, 0) > most / 2
                    && sizes.get(name) <= most, name + ": " + sizes));
        }

        /// All methods and constructors of Chat.java by their lines, as the compiler sees them.
        private static List<Map.Entry<Integer, String>> methods() throws IOException {
            Path file = FOLDER.resolve("Chat.java");
            String source = Files.readString(file);
            var methods = new ArrayList<Map.Entry<Integer, String>>();
            JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
            try (var files = compiler.getStandardFileManager(null, null, null)) {
                var task = (JavacTask) compiler.getTask(null, files, null, null, null,
                        files.getJavaFileObjects(file));
                CompilationUnitTree unit = task.parse().iterator().next();
                SourcePositions positions = Trees.instance(task).getSourcePositions();
                new TreeScanner<Void, Void>() {
                    @Override
                    public Void visitMethod(MethodTree method, Void none) {
                        int end = (int) positions.getEndPosition(unit, method);
                        if (end >= 0) {                                 // written, not implied
                            int start = (int) positions.getStartPosition(unit, method);
                            methods.add(Map.entry((int) source.substring(start, end).lines()
                                    .filter(line -> !line.isBlank()).count(),
                                    method.getName().toString()));
                        }
                        return super.visitMethod(method, none);
                    }
                }.scan(unit, null);
            }
            methods.sort(Map.Entry.comparingByKey());
            return methods;
        }
    }

    // ---- ./run.sh test: one line for a test, and what was written while one failed ------------

    @Nested
    @DisplayName("./run.sh test")
    class Reports {
        @Test
        @DisplayName("shows what was written under a test that failed, and only there")
        void showsWhatWasWrittenUnderATestThatFailed() throws Exception {
            List<String> lines = report("Tried");
            assertTrue(lines.remove(lines.size() - 2).matches("on JDK \\d+.*, in \\d+ s"));
            assertEquals("""
                    FAIL  Tried > fails
                          java.lang.AssertionError: a reason
                          \tat ChatTest$Tried.fails(ChatTest.java)
                          what was written meanwhile:
                            on stdout
                            on stderr
                    ok    Tried > passes
                    skip  Tried > skips: Assumption failed: no-such-program is not installed
                    failed: Tried > fails
                    1 passed, 1 failed, 1 skipped""", String.join("\n", lines)
                            .replaceAll("\\.java:\\d+", ".java"));
        }

        @Test
        @DisplayName("takes all tests of a name, and says which name is unknown")
        void takesNames() throws Exception {
            assertEquals("1 passed, 0 failed", report("Tried#passes").getLast());
            assertEquals(List.of("ChatTest.java has no test Tried#nothing", "0 passed, 0 failed"),
                    report("Tried#nothing"));
            assertEquals(List.of("ChatTest.java has no class Nobody", "0 passed, 0 failed"),
                    report("Nobody"));
        }

        @Test
        @DisplayName("tests that run at the same time make one report")
        void partsMakeOneReport() throws Exception {
            List<String> lines = report("Tried#fails", "Tried#skips", "/", "Tried#passes");
            assertTrue(lines.contains("ok    Tried > passes"), lines::toString);
            assertEquals("on stderr", lines.get(lines.indexOf("FAIL  Tried > fails") + 5).strip());
            assertEquals(List.of("failed: Tried > fails", "1 passed, 1 failed, 1 skipped"),
                    List.of(lines.get(lines.size() - 3), lines.getLast()));
            lines = report("Tried#passes", "/", "Nobody");
            assertTrue(lines.contains("failed: Nobody: its JVM ended with 1"), lines::toString);
            assertEquals("1 passed, 1 failed", lines.getLast());
        }

        private static List<String> report(String... names) throws Exception {
            var command = Stream.concat(Stream.of(JAVA, "-cp",
                    System.getProperty("java.class.path"), "ChatTest$Report"), Stream.of(names));
            try (Program program = new Program(FOLDER, command.toArray(String[]::new))) {
                boolean good = List.of(names).equals(List.of("Tried#passes"));
                assertEquals(good ? 0 : 1, program.exit());
                assertEquals(List.of(), List.copyOf(program.err));
                return new ArrayList<>(program.out);
            }
        }
    }

    /// Tests that only `Reports` runs.
    @DisplayName("Tried")
    @TestMethodOrder(MethodOrderer.DisplayName.class)
    static class Tried {
        @Test @DisplayName("fails") void fails() {
            System.out.println("on stdout");
            System.err.println("on stderr");
            throw new AssertionError("a reason");
        }

        @Test @DisplayName("passes") void passes() { System.err.println("nobody reads this"); }
        @Test @DisplayName("skips") void skips() { assumeInstalled("no-such-program"); }
    }

    /// Runs all tests, or some: `Frames` or `Frames#name`. What they and their servers write on
    /// stdout and stderr is held back, and shown only under a test that failed.
    static final class Report implements TestExecutionListener {
        /// Seconds from which on the line of a test says how long it took.
        private static final double LONG = 1;

        /// Tests that mostly wait, for time to pass or for programs: they can run beside the others.
        private static final List<Class<?>> OF_TIME = List.of(Servers.class, CommandLine.class);
        private static final List<Class<?>> OF_PROGRAMS = List.of(Machine.class, PagePort.class,
                PageHttp.class, PageInFirefox.class, Page.class, Lifting.class, Recipes.class,
                Readme.class, Reports.class);

        private final PrintStream out =
                new PrintStream(new FileOutputStream(FileDescriptor.out), true,
                        StandardCharsets.UTF_8);
        private final long begun = System.nanoTime();
        private final Tail written = new Tail();
        private final Map<TestIdentifier, Long> startedAt = new ConcurrentHashMap<>();
        private final List<String> failures = new ArrayList<>();
        private TestPlan plan;
        private long passed, failedTests, failedContainers;

        public static void main(String... names) throws Exception {
            var report = new Report();
            boolean good;
            if (names.length == 0) good = report.runAll();
            else if (List.of(names).contains("/")) good = report.runBeside(List.of(
                    String.join(" ", names).split(" / ")));
            else good = report.run(names);
            System.exit(good ? 0 : 1);
        }

        private boolean runAll() throws InterruptedException {
            var others = new ArrayList<>(List.of(ChatTest.class.getDeclaredClasses()));
            others.removeIf(type -> !type.isAnnotationPresent(Nested.class));
            others.removeAll(OF_TIME);
            others.removeAll(OF_PROGRAMS);
            return runBeside(Stream.of(others, OF_TIME, OF_PROGRAMS).map(types -> types.stream()
                    .map(Class::getSimpleName).collect(Collectors.joining(" "))).toList());
        }

        /// Runs these at the same time, each in a JVM of its own, which counts its own threads and
        /// memory.
        private boolean runBeside(List<String> names) throws InterruptedException {
            var parts = names.stream().map(Part::new).toList();
            for (Part part : parts) part.start();
            for (Part part : parts) part.join();
            var failures = new ArrayList<String>();
            long[] counts = new long[3];
            for (Part part : parts) {
                if (!part.failures.isEmpty()) failures.add(part.failures);
                Arrays.setAll(counts, i -> counts[i] + part.counts[i]);
            }
            return conclude(failures, counts);
        }

        private boolean run(String... names) {
            System.setOut(new PrintStream(written, true, StandardCharsets.UTF_8));
            System.setErr(System.out);
            var chosen = new ArrayList<DiscoverySelector>();
            try {
                for (String name : names) chosen.addAll(named(name));
            } catch (ClassNotFoundException | NoSuchMethodException unknown) {
                out.println("ChatTest.java has no " + unknown.getMessage());
                out.println("0 passed, 0 failed");
                return false;
            }
            Launcher launcher = LauncherFactory.create();
            plan = launcher.discover(LauncherDiscoveryRequestBuilder.request()
                    .selectors(chosen).build());
            out.print(written.text());                      // what JUnit has to say of the tests
            launcher.execute(plan, this);
            long tests = plan.countTestIdentifiers(TestIdentifier::isTest);
            return conclude(failures, passed, failedTests + failedContainers,
                    tests - passed - failedTests);
        }

        /// The last lines.
        /// @param counts how many tests passed, failed, and were skipped
        private boolean conclude(List<String> failures, long... counts) {
            if (!failures.isEmpty()) out.println("failed: " + String.join("; ", failures));
            out.printf(Locale.ROOT, "on JDK %s (%s), in %.0f s%n", Runtime.version(),
                    System.getProperty("java.vendor"), secondsSince(begun));
            String skipped = counts[2] > 0 ? ", " + counts[2] + " skipped" : "";
            out.println(counts[0] + " passed, " + counts[1] + " failed" + skipped);
            return counts[0] > 0 && counts[1] == 0;
        }

        private static List<DiscoverySelector> named(String name)
                throws ClassNotFoundException, NoSuchMethodException {
            String[] parts = name.split("#");
            Class<?> type;
            try {
                type = Class.forName("ChatTest$" + parts[0]);
            } catch (ClassNotFoundException unknown) {
                throw new ClassNotFoundException("class " + parts[0]);
            }
            if (parts.length == 1) return List.of(DiscoverySelectors.selectClass(type));
            var methods = new ArrayList<DiscoverySelector>();
            for (Class<?> from = type; from != null; from = from.getSuperclass())
                for (var method : from.getDeclaredMethods())
                    if (method.getName().equals(parts[1]))
                        methods.add(DiscoverySelectors.selectMethod(type, method));
            if (methods.isEmpty()) throw new NoSuchMethodException("test " + name);
            return methods;
        }

        @Override
        public void executionStarted(TestIdentifier identifier) {
            Chat.WebSocket.Log.flush();                     // what the test before still had to say
            written.clear();
            startedAt.put(identifier, System.nanoTime());
        }

        @Override
        public void executionSkipped(TestIdentifier identifier, String reason) {
            out.println("skip  " + name(identifier) + ": " + reason);
        }

        @Override
        public void executionFinished(TestIdentifier identifier, TestExecutionResult result) {
            double seconds = secondsSince(startedAt.remove(identifier));
            switch (result.getStatus()) {
                case SUCCESSFUL -> {
                    if (!identifier.isTest()) return;
                    passed++;
                    out.println("ok    " + name(identifier) + (seconds < LONG ? ""
                            : " (%.1f s)".formatted(seconds)));
                }
                case ABORTED -> executionSkipped(identifier, result.getThrowable()
                        .map(Throwable::getMessage).orElse("no reason given"));
                case FAILED -> {
                    if (identifier.isTest()) failedTests++;
                    else failedContainers++;
                    failures.add(name(identifier));
                    out.println("FAIL  " + name(identifier));
                    result.getThrowable().ifPresent(cause -> out.print(trace(cause).indent(6)));
                    Chat.WebSocket.Log.flush();
                    String log = written.text();
                    if (!log.isEmpty()) out.print("      what was written meanwhile:\n"
                            + log.indent(8));
                }
            }
        }

        /// `Frames > §5.2 …`: without the names that all have, in one line.
        private String name(TestIdentifier identifier) {
            var names = new ArrayDeque<String>();
            for (var each = Optional.of(identifier); each.isPresent();
                    each = plan.getParent(each.get())) names.addFirst(each.get().getDisplayName());
            if (names.size() > 1) names.removeFirst();                      // JUnit Jupiter
            if (names.size() > 1) names.remove("ChatTest");
            String name = String.join(" > ", names);
            int end = name.indexOf('\n');
            return end < 0 ? name : name.substring(0, end) + " …";
        }

        /// What went wrong and where, without the JDK's and JUnit's own lines.
        private static String trace(Throwable cause) {
            var all = new StringWriter();
            cause.printStackTrace(new PrintWriter(all, true));
            return all.toString().lines().filter(line -> !line.contains("at java.base/")
                    && !line.contains("at org.junit.")).collect(Collectors.joining("\n"));
        }

        private static double secondsSince(long nanoTime) {
            return (System.nanoTime() - nanoTime) / 1e9;
        }

        /// Some of the tests, in a JVM of their own.
        private final class Part extends Thread {
            private static final Pattern COUNTS =
                    Pattern.compile("(\\d+) passed, (\\d+) failed(?:, (\\d+) skipped)?");
            private final String names;
            private final StringBuilder block = new StringBuilder();
            String failures = "";
            long[] counts = new long[3];

            Part(String names) { this.names = names; }

            @Override
            public void run() {
                var command = new ArrayList<>(List.of(JAVA));
                command.addAll(ManagementFactory.getRuntimeMXBean().getInputArguments());
                command.addAll(List.of("-cp", System.getProperty("java.class.path"),
                        Report.class.getName()));
                command.addAll(List.of(names.split(" ")));
                try {
                    Process process = new ProcessBuilder(command)
                            .redirectError(ProcessBuilder.Redirect.INHERIT).start();
                    Runtime.getRuntime().addShutdownHook(new Thread(process::destroy));
                    process.inputReader(StandardCharsets.UTF_8).lines().forEach(this::take);
                    flush();
                    int code = process.waitFor();
                    if (code != 0 && counts[1] == 0) fail("its JVM ended with " + code);
                } catch (IOException | InterruptedException broken) {
                    fail("its JVM: " + broken);
                }
            }

            private void fail(String why) {
                failures = names + ": " + why;
                counts[1]++;
            }

            /// Prints what belongs to a test at once: the other parts print, too.
            private void take(String line) {
                Matcher last = COUNTS.matcher(line);
                if (last.matches())
                    Arrays.setAll(counts, i -> last.group(i + 1) == null ? 0
                            : Long.parseLong(last.group(i + 1)));
                else if (line.startsWith("failed: ")) failures = line.substring(8);
                else if (!line.startsWith("on JDK ")) {
                    if (!line.startsWith(" ")) flush();
                    block.append(line).append('\n');
                }
            }

            private void flush() {
                out.print(block);
                block.setLength(0);
            }
        }

        /// Keeps the end of what is written. Its memory is always the same: some tests measure it.
        private static final class Tail extends OutputStream {
            private final byte[] ring = new byte[1 << 14];
            private long count;

            @Override
            public synchronized void write(int one) {
                ring[(int) (count % ring.length)] = (byte) one;
                count++;
            }

            @Override
            public synchronized void write(byte[] bytes, int from, int length) {
                for (int i = from; i < from + length; i++) write(bytes[i]);
            }

            synchronized void clear() { count = 0; }

            synchronized String text() {
                var kept = new ByteArrayOutputStream();
                for (long at = Math.max(0, count - ring.length); at < count; at++)
                    kept.write(ring[(int) (at % ring.length)]);
                String left = count > ring.length
                        ? "(the first %,d bytes are left out)\n".formatted(count - ring.length) : "";
                return left + kept.toString(StandardCharsets.UTF_8);
            }
        }
    }

    // ---- ./run.sh bench: how fast is it here? -------------------------------------------------

    /// Measures servers in JVMs of their own; progress goes to stderr, the result to stdout.
    public static void main(String... arguments) throws Exception {
        try {
            System.exit(Bench.run(arguments) ? 0 : 1);
        } catch (IllegalArgumentException wrong) {
            System.err.println(wrong.getMessage() + "\n" + Bench.USAGE);
            System.exit(2);
        }
    }

    /// A load generator that counts what it gets. One thread serves all connections and does little
    /// for a line, so that the server is measured and not the generator. A line is dots, `~`, four
    /// digits for its sender and eight that count his lines; it is read from its end, because the
    /// server puts a name before it.
    static final class Bench implements AutoCloseable {
        static final String USAGE = """
            ./run.sh bench [--json] [--seconds N] [echo] [broadcast] [rate] [idle] [storm] [first]
              first                  storm, echo and broadcast just after the start, not warmed up
              --against [HOST:]PORT  measures the server there, not one that is started for it
              --paths CHAT,ECHO      of that server, as /,/echo: who is at CHAT gets what anybody
                                     says there, after a name or nothing; ECHO returns it""";

        /// @param inFlight lines of each sender that are under way
        /// @param rate     if not 0: lines a second of all together, whatever comes back
        /// @param cold     whether the server has just been started: nothing warms it up
        record Plan(String kind, String title, int peers, int senders, int inFlight, int rate,
                    boolean cold) {
            Plan(String kind, String title, int peers, int senders, int inFlight, int rate) {
                this(kind, title, peers, senders, inFlight, rate, false);
            }

            Plan first() { return new Plan(kind, title, peers, senders, inFlight, rate, true); }

            boolean isOf(Set<String> kinds) {
                return kinds.isEmpty() || kinds.contains(cold ? "first" : kind);
            }
        }

        static final Plan ECHO = new Plan("echo", "50 connections, 16 in flight", 50, 50, 16, 0);
        static final Plan BROADCAST = new Plan("broadcast", "to 100, 4 senders", 100, 4, 4, 0);
        static final Plan STORM = new Plan("storm", "32 connections at a time", 32, 0, 0, 0);
        static final List<Plan> PLANS = List.of(
                new Plan("echo", "50 connections, 1 in flight", 50, 50, 1, 0), ECHO, BROADCAST,
                new Plan("broadcast", "to 1000, 2 senders", 1000, 2, 2, 0),
                new Plan("rate", "to 500, 100 lines/s", 500, 4, 0, 100),
                new Plan("idle", "at most 10,000 connections", 10_000, 0, 0, 0),
                STORM, STORM.first(), ECHO.first(), BROADCAST.first());
        /// The figures. Cpus are processors in use: 1 is all of one.
        static final List<String> FIGURES = List.of("perSecond", "p50ms", "p99ms", "kBEach",
                "serverCpus", "benchCpus", "lost", "doubled", "reordered");
        static final int DIGITS = 12;

        static boolean run(String... arguments) throws Exception {
            var kinds = new HashSet<String>();
            boolean json = false;
            double seconds = 3;
            String against = "", paths = Server.paths();
            for (var words = List.of(arguments).iterator(); words.hasNext(); ) {
                String word = words.next();
                boolean kind = PLANS.stream().anyMatch(plan -> plan.isOf(Set.of(word)));
                if (kind) kinds.add(word);
                else if (word.equals("--json")) json = true;
                else if (!words.hasNext()) throw new IllegalArgumentException(word + "?");
                else if (word.equals("--seconds")) seconds = Double.parseDouble(words.next());
                else if (word.equals("--against")) against = words.next();
                else if (word.equals("--paths")) paths = words.next();
                else throw new IllegalArgumentException(word + "?");
            }
            var rows = new ArrayList<Map<String, Object>>();
            for (Plan plan : PLANS)
                if (plan.isOf(kinds)) {
                    System.err.printf("%-10s %-27s", label(plan), plan.title);
                    try (Server server = against.isEmpty() ? Server.start()
                            : Server.at(against, paths)) {
                        rows.add(measure(plan, server, seconds));
                    }
                    System.err.println();
                }
            System.out.println(json ? rows.stream().map(Bench::json).toList() : table(rows));
            return rows.stream().allMatch(Bench::isClean);
        }

        private static String label(Plan plan) { return (plan.cold ? "1st " : "") + plan.kind; }

        /// @return figures by their names
        static Map<String, Object> measure(Plan plan, Server server, double seconds)
                throws Exception {
            try (var bench = new Bench(plan, server, seconds)) {
                if (plan.kind.equals("idle")) bench.idle();
                else if (plan.kind.equals("storm")) bench.storm();
                else bench.talk();
                return bench.result();
            }
        }

        static boolean isClean(Map<String, Object> row) {
            return Stream.of("lost", "doubled", "reordered").allMatch(n -> row.get(n).equals(0L));
        }

        static String json(Map<String, Object> row) {
            return row.entrySet().stream().map(e -> "\"" + e.getKey() + "\": "
                    + (e.getValue() instanceof String text ? '"' + text + '"' : e.getValue()))
                    .collect(Collectors.joining(", ", "\n{", "}"));
        }

        static String table(List<Map<String, Object>> rows) {
            var text = new StringBuilder(" ".repeat(38));
            for (String name : FIGURES) text.append("%11s".formatted(name));
            for (var row : rows) {
                text.append("%n%-10s %-27s".formatted(row.get("kind"), row.get("title")));
                for (String name : FIGURES) text.append("%11s".formatted(
                        !(row.get(name) instanceof Double figure) ? row.getOrDefault(name, "")
                        : (figure < 1000 ? "%.2f" : "%,.0f").formatted(figure)));
            }
            return text.toString();
        }

        /// A server: its process, unless somebody else has started it, and where it is.
        record Server(Optional<ProcessHandle> process, InetSocketAddress address, String chat,
                      String echo) implements AutoCloseable {
            /// Those of a Chat; nobody else is in this room.
            static String paths() { return "/chat/" + System.nanoTime() + ",/echo"; }

            /// Starts one as a user does.
            static Server start() throws IOException {
                Process process = new ProcessBuilder("./run.sh", "--http-port=0", "--ws-port=0",
                        "--max-connections=20000")
                        .redirectError(ProcessBuilder.Redirect.INHERIT).start();
                Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
                String line = process.inputReader().lines().filter(l -> l.contains("ws://"))
                        .findFirst().orElseThrow(() -> new IOException("no server"));
                Server it = at(line.replaceAll(".*ws://[^:]*:|/.*", ""), paths());
                return new Server(Optional.of(process.toHandle()), it.address, it.chat, it.echo);
            }

            /// @param place [host:]port
            /// @param paths chat,echo
            static Server at(String place, String paths) {
                int colon = place.lastIndexOf(':'), comma = paths.indexOf(',');
                String port = place.substring(colon + 1);
                if (!port.matches("\\d{1,5}") || Integer.parseInt(port) > 65535 || comma < 0)
                    throw new IllegalArgumentException(place + " " + paths + "?");
                String host = colon < 0 ? "localhost" : place.substring(0, colon);
                return new Server(Optional.empty(),
                        new InetSocketAddress(host, Integer.parseInt(port)),
                        paths.substring(0, comma), paths.substring(comma + 1));
            }

            static String jdk(String tool) {
                return Path.of(System.getProperty("java.home"), "bin", tool).toString();
            }

            SocketChannel open(byte[] request) throws IOException {
                SocketChannel channel = SocketChannel.open(address);
                channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
                String head = ask(channel, request, "\r\n\r\n");
                if (!head.contains(ACCEPT)) throw new IOException("wrong answer: " + head);
                return channel;
            }

            /// Sends this and waits for an answer that has this in it.
            static String ask(SocketChannel channel, byte[] sent, String awaited)
                    throws IOException {
                channel.write(ByteBuffer.wrap(sent));
                var got = ByteBuffer.allocate(1024);
                for (String text = ""; ; ) {
                    if (text.contains(awaited)) return text;
                    if (channel.read(got) <= 0) throw new IOException("wrong answer: " + text);
                    text = new String(got.array(), 0, got.position(), StandardCharsets.ISO_8859_1);
                }
            }

            /// Time on a processor in all; 0 if that can't be known.
            long cpu() {
                return process.flatMap(server -> server.info().totalCpuDuration())
                        .orElse(Duration.ZERO).toNanos();
            }

            @Override
            public void close() {
                if (process.isEmpty()) return;
                process.get().destroy();
                process.get().onExit().join();
            }
        }

        /// Counts what does not come as it was sent.
        static final class Tally {
            long received, lost, doubled, reordered;

            /// What somebody has heard of a sender: the number to come next, and which of the 64
            /// before it have come (bit 0: the last).
            static final class Heard {
                int next;
                long before;
            }

            void line(Heard heard, int number) {
                received++;
                int ahead = number - heard.next, back = ~ahead;
                if (ahead >= 0) {
                    lost += ahead;                              // unless they come late
                    heard.before = ahead > 62 ? 1 : heard.before << ahead + 1 | 1;
                    heard.next = number + 1;
                } else if (back < 64 && (heard.before >>> back & 1) != 0) doubled++;
                else {
                    reordered++;
                    if (back < 64) lost--;                      // too late for this: stays lost
                    if (back < 64) heard.before |= 1L << back;
                }
            }
        }

        private final Plan plan;
        private final Server server;
        private final boolean echo;
        private final byte[] request;
        private final long warmUp, time;                        // ns
        private final Map<String, Object> row = new LinkedHashMap<>();
        private final Tally tally = new Tally();
        private final List<SocketChannel> channels = new ArrayList<>();
        private final List<Peer> peers = new ArrayList<>(), senders = new ArrayList<>();
        private final Selector selector = Selector.open();
        private final ByteBuffer in = ByteBuffer.allocateDirect(1 << 18), line;
        private final ByteBuffer out = ByteBuffer.allocateDirect(1 << 16);
        private final long[] samples = new long[1 << 20];       // the newest latencies
        private long sampled, due, from = Long.MAX_VALUE;       // older lines are not sampled
        private int mask;
        private volatile boolean over;

        Bench(Plan plan, Server server, double seconds) throws IOException {
            this.plan = plan;
            this.server = server;
            echo = plan.kind.equals("echo");
            request = utf8(request(echo || plan.kind.equals("storm") ? server.echo : server.chat));
            warmUp = plan.cold ? 0 : (long) (Math.min(2, seconds) * 1e9);
            time = (long) (seconds * 1e9);
            line = ByteBuffer.wrap(utf8(".".repeat(echo ? 19 : 51) + "~" + "0".repeat(DIGITS)));
            row.put("kind", label(plan));
            row.put("title", plan.title);
        }

        /// Connects and waits until it is in: a ping (§5.5.2) is answered in the room only.
        private SocketChannel join() throws IOException {
            SocketChannel channel = server.open(request);
            channels.add(channel);
            Server.ask(channel, masked(0x89), "\u008a\0");
            return channel;
        }

        /// A connection. It hears all senders; on /echo itself alone.
        private final class Peer {
            final SocketChannel channel = join();
            final List<Peer> sources = echo ? List.of(this) : senders;
            final List<Tally.Heard> heard = Stream.generate(Tally.Heard::new)
                    .limit(echo ? 1 : plan.senders).toList();
            final int number = echo ? 0 : peers.size();
            final long[] sentAt = new long[1024];               // of line i at i % 1024
            int sent;
            byte[] rest = {};                                   // of a frame that is not complete

            Peer() throws IOException {
                channel.configureBlocking(false).register(selector, SelectionKey.OP_READ, this);
                if (peers.size() < plan.senders) senders.add(this);
                peers.add(this);
            }

            void say(long now) {
                sentAt[sent % 1024] = now;
                long digits = number * 100_000_000L + sent++;
                int size = line.capacity();
                for (int i = size - 1; i >= size - DIGITS; i--, digits /= 10)
                    line.put(i, (byte) ('0' + digits % 10));
                mask = mask * 0x2545f491 + 0x4f6cdd1d;
                out.put((byte) 0x81).put((byte) (0x80 | size)).putInt(mask);
                long twice = (long) mask << 32 | mask & 0xffffffffL;
                for (int i = 0; i < size; i += 8) out.putLong(line.getLong(i) ^ twice);
            }

            void flush() throws IOException {
                if (out.position() == 0) return;
                channel.write(out.flip());
                if (out.hasRemaining()) throw new IOException("the server does not read");
                out.clear();
            }

            /// Takes what has come apart. No frame is longer than 125 bytes.
            void read() throws IOException {
                if (channel.read(in.clear().put(rest)) < 0) throw new EOFException("cut off");
                long now = System.nanoTime();
                int at = 0, end = in.position();
                for (int next; at + 2 <= end && (next = at + 2 + in.get(at + 1)) <= end; at = next)
                    switch (in.get(at) & 0xff) {
                        case 0x81 -> hear(next - DIGITS, now);
                        case 0x89 -> out.put(masked(0x8a));
                        default -> throw new IOException("cut off by frame " + in.get(at));
                    }
                if (rest.length + end - at > 0) in.get(at, rest = new byte[end - at]);
                flush();
            }

            void hear(int digits, long now) {
                if (in.get(digits - 1) != '~') return;          // somebody has left
                int sender = number(digits, 4), number = number(digits + 4, 8);
                Peer source = sources.get(sender);
                tally.line(heard.get(sender), number);
                sample(source.sentAt[number % 1024], now);
                if (source == this && plan.rate == 0 && !over) say(now);
            }

            int missing() {
                return IntStream.range(0, heard.size())
                        .map(i -> sources.get(i).sent - heard.get(i).next).sum();
            }
        }

        private int number(int at, int digits) {
            int number = 0;
            for (int i = at; i < at + digits; i++) number = 10 * number + in.get(i) - '0';
            return number;
        }

        private void sample(long start, long now) {
            if (start >= from) samples[(int) (sampled++ % samples.length)] = now - start;
        }

        /// Echo and broadcast. After the warm-up, only lines that were sent later are sampled.
        private void talk() throws Exception {
            while (peers.size() < plan.peers) new Peer();
            long start = System.nanoTime();
            for (Peer sender : senders) {
                for (int i = 0; i < plan.inFlight; i++) sender.say(start);
                sender.flush();
            }
            from = start + warmUp;
            run(start, from);
            meter(() -> run(start, from + time));
            over = true;
            for (int quiet = 0; quiet < (missing() == 0 ? 5 : 300); quiet++) {
                long received = tally.received;
                run(start, System.nanoTime() + 10_000_000);
                if (tally.received > received) quiet = 0;
            }
            tally.lost += missing();
        }

        private long missing() { return peers.stream().mapToLong(Peer::missing).sum(); }

        /// At a fixed rate, line i is due i / rate seconds after the start.
        private void run(long start, long end) throws IOException {
            long told = System.nanoTime(), before = tally.received;
            for (long now = told, next = end; now < end; now = System.nanoTime()) {
                for (; plan.rate > 0 && !over; due++) {
                    next = start + due * 1_000_000_000 / plan.rate;
                    if (next > now) break;
                    senders.get((int) (due % plan.senders)).say(next);
                    senders.get((int) (due % plan.senders)).flush();
                }
                turn((Math.min(next, end) - now) / 1_000_000);
                if (now - told < 1_000_000_000) continue;
                System.err.printf(" %,d", tally.received - before);
                told = now;
                before = tally.received;
            }
        }

        private void turn(long millis) throws IOException {
            Consumer<SelectionKey> read = key -> {
                try {
                    ((Peer) key.attachment()).read();
                } catch (IOException lost) {
                    throw new UncheckedIOException(lost);
                }
            };
            if (millis == 0) selector.selectNow(read);          // 0 would be for ever
            else selector.select(read, millis);
        }

        /// Memory of connections on which nothing is said.
        private void idle() throws Exception {
            int count = plan.peers;
            var system = ManagementFactory.getOperatingSystemMXBean();
            if (system instanceof UnixOperatingSystemMXBean unix)
                count = (int) Math.min(count, unix.getMaxFileDescriptorCount() - 500);
            for (int i = 0; i < 100; i++) server.open(utf8(request("/echo"))).close();
            long empty = memory();
            for (int i = 0; i < count; i++) join();
            meter(() -> Thread.sleep(Duration.ofNanos(time)));
            long full = memory();
            row.remove("perSecond");
            if (full > 0) row.put("kBEach", (full - empty) / (double) count);
            row.put("title", count + " connections");
        }

        /// The server's kB after a full collection; 0 where there is no /proc, or it isn't ours.
        private long memory() throws Exception {
            if (server.process.isEmpty()) return 0;
            String pid = Long.toString(server.process.get().pid());
            Path status = Path.of("/proc", pid, "status");
            if (!Files.exists(status)) return 0;
            new ProcessBuilder(Server.jdk("jcmd"), pid, "GC.run")
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD).start().waitFor();
            return Files.readAllLines(status).stream().filter(l -> l.startsWith("VmRSS"))
                    .mapToLong(l -> Long.parseLong(l.replaceAll("\\D", ""))).sum();
        }

        /// Clients that come and go: handshake, Close, end.
        private void storm() throws Exception {
            byte[] bye = masked(0x88, bytes("03 e8"));
            from = System.nanoTime() + warmUp;
            Callable<Void> client = () -> {
                while (!over) {
                    long start = System.nanoTime();
                    try (SocketChannel channel = server.open(request)) {
                        Server.ask(channel, bye, "\u0088\2\3\u00e8");
                        while (channel.read(ByteBuffer.allocate(1)) >= 0) continue;
                    }
                    synchronized (tally) {
                        tally.received++;
                        sample(start, System.nanoTime());
                    }
                }
                return null;
            };
            try (var threads = Executors.newCachedThreadPool()) {
                var clients = Collections.nCopies(plan.peers, client).stream()
                        .map(threads::submit).toList();
                Thread.sleep(Duration.ofNanos(warmUp));
                meter(() -> Thread.sleep(Duration.ofNanos(time)));
                over = true;
                for (var each : clients) each.get();
            }
        }

        private interface Stretch { void pass() throws Exception; }

        /// What happens in the measured time.
        private void meter(Stretch stretch) throws Exception {
            long start = System.nanoTime(), received = tally.received;
            var system = ManagementFactory.getPlatformMXBean(
                    com.sun.management.OperatingSystemMXBean.class);
            long serverCpu = server.cpu(), benchCpu = system.getProcessCpuTime();
            stretch.pass();
            double nanos = System.nanoTime() - start;
            row.put("measured", tally.received - received);
            row.put("perSecond", 1e9 * (tally.received - received) / nanos);
            if (server.process.isPresent())
                row.put("serverCpus", (server.cpu() - serverCpu) / nanos);
            row.put("benchCpus", (system.getProcessCpuTime() - benchCpu) / nanos);
        }

        private Map<String, Object> result() {
            int count = (int) Math.min(sampled, samples.length);
            Arrays.sort(samples, 0, count);
            if (count > 0) row.put("p50ms", samples[count / 2] / 1e6);
            if (count > 0) row.put("p99ms", samples[(int) (0.99 * count)] / 1e6);
            row.put("received", tally.received);
            row.put("lost", tally.lost);
            row.put("doubled", tally.doubled);
            row.put("reordered", tally.reordered);
            return row;
        }

        @Override
        public void close() throws IOException {
            for (SocketChannel channel : channels) channel.close();
            selector.close();
        }
    }

    // ---- Faults: what fails in one connection stays there -------------------------------------

    @Nested
    @DisplayName("Faults")
    class Faults {
        /// Standard error that fails once, as if there were no memory, at a line that holds this.
        private static final class Failing extends PrintStream {
            private final String text;
            final AtomicBoolean failed = new AtomicBoolean();

            Failing(String text) {
                super(System.err, true, StandardCharsets.UTF_8);
                this.text = text;
                System.setErr(this);
            }

            @Override
            public void println(String line) {
                if (line.contains(text) && !failed.getAndSet(true))
                    throw new OutOfMemoryError("a test's, at " + line);
                super.println(line);
            }
        }

        @Test
        @DisplayName("a handler that fails costs its own connection, the others don't notice")
        void aHandlerThatFailsCostsItsOwnConnection() throws Exception {
            try (var executor = Executors.newVirtualThreadPerTaskExecutor();
                    var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
                executor.submit(() -> {
                    while (true) {
                        Socket socket = listener.accept();
                        executor.submit(() -> Chat.WebSocket.serve(socket, webSocket -> {
                            while (webSocket.receive() instanceof Chat.WebSocket.Message message)
                                switch (message.text()) {
                                    case "runtime" -> throw new IllegalStateException("a test's");
                                    case "memory" -> throw new OutOfMemoryError("a test's");
                                    case "stack" -> throw new StackOverflowError("a test's");
                                    default -> webSocket.send(message);
                                }
                        }));
                    }
                });
                try (Raw ada = new Raw(listener.getLocalPort()).shakeHands("/")) {
                    for (String bug : List.of("runtime", "memory", "stack"))
                        try (Raw bob = new Raw(listener.getLocalPort()).shakeHands("/")) {
                            bob.text(bug).assertClosed(1011);
                            assertEquals("Hello", ada.text("Hello").line());
                        }
                    ada.bye();
                }
            }
        }

        @Test
        @DisplayName("an error while a room is told something leaves the room as it was")
        void anErrorWhileARoomIsToldLeavesTheRoom() throws Exception {
            try (var stderr = new Stderr(); Chat chat = chat("--no-deflate", "--max-queue=100000");
                    Raw ada = Raw.open(chat, "/chat/f"); Raw slow = new Raw(chat.webSocketPort())) {
                var failing = new Failing("too slowly");
                ada.assertNothingMore();
                String name = slow.shakeHands("/chat/f").text("").line().replace(": ", "");
                assertEquals(name + ": ", ada.line());
                var left = new AtomicBoolean();
                eventually(true, () -> {                              // until he is cut off
                    try (Raw talker = Raw.open(chat, "/chat/f")) {
                        for (int i = 0; i < 100; i++) {
                            talker.text("x".repeat(50_000));
                            // before and behind him in the room: both hear what he was cut off at
                            for (Raw each : List.of(ada, talker))
                                for (String line = ""; !line.endsWith("x"); line = each.line())
                                    if (line.equals(" .... " + name + " has left.")) left.set(true);
                        }
                    }
                    return left.get();
                });
                try (Raw bob = Raw.open(chat, "/chat/f")) {
                    bob.text("still here?");
                    String line = ada.line();
                    while (!line.endsWith("still here?")) line = ada.line();
                }
                eventually(true, failing.failed::get);
                assertEquals(List.of(), stderr.text().lines().filter(line ->
                        line.contains("Exception")).toList());
            }
        }

        @Test
        @DisplayName("an error while one is accepted does not keep out who comes after")
        void anErrorWhileOneIsAcceptedKeepsOutNobodyElse() throws Exception {
            var failures = new ArrayDeque<Throwable>(List.of(new IOException("a test's"),
                    new OutOfMemoryError("a test's"), new OutOfMemoryError("another of a test's")));
            try (var stderr = new Stderr();
                    var chat = new Chat(new Chat.Options("--http-port=0", "--ws-port=0"));
                    var listener = new ServerSocket() {
                @Override
                public Socket accept() throws IOException {
                    Throwable failure = failures.poll();
                    if (failure instanceof IOException io) throw io;
                    if (failure instanceof Error error) throw error;
                    return super.accept();
                }
            }) {
                listener.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
                Object ports = field(Chat.class, "ports").get(chat);
                var failing = new Failing("can't accept");              // nor while that is logged
                chat.start();
                var listen = ports.getClass().getDeclaredMethod("listen", ServerSocket.class);
                listen.setAccessible(true);
                Thread.startVirtualThread(() -> assertDoesNotThrow(() ->
                        listen.invoke(ports, listener)));
                new Raw(listener.getLocalPort()).shakeHands("/echo").close();
                assertTrue(failures.isEmpty(), failures::toString);
                eventually(true, failing.failed::get);
                assertEquals(2, stderr.text().lines().filter(line ->
                        line.contains("can't accept")).count());
            }
        }

        @Test
        @DisplayName("an error while one is watched leaves the others watched")
        void anErrorWhileOneIsWatchedLeavesTheOthersWatched() throws Exception {
            var settings = settings(line -> {
                throw new OutOfMemoryError("a test's, at " + line);
            });
            try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
                for (int i = 0; i < 3; i++)
                    try (Raw raw = new Raw(listener.getLocalPort())) {
                        var opened = new CompletableFuture<Chat.WebSocket>();
                        Socket socket = listener.accept();
                        Thread.startVirtualThread(() -> new Chat.WebSocket(socket, settings).serve(
                                handshake -> List.of(), webSocket -> {
                            opened.complete(webSocket);
                            while (webSocket.receive() != null) continue;
                        }));
                        raw.shakeHands("/");
                        Field reader = field(Chat.WebSocket.class, "reader");
                        Field heard = field(Chat.WebSocket.Reader.class, "heard");
                        // As if a ping had gone out, and nothing had come back.
                        field(Chat.WebSocket.class, "pingedAt").setLong(opened.get(),
                                System.nanoTime() - TimeUnit.SECONDS.toNanos(
                                Chat.WebSocket.SILENCE + 1));
                        field(Chat.WebSocket.class, "pinged").setBoolean(opened.get(), true);
                        heard.setLong(reader.get(opened.get()), System.nanoTime() - TimeUnit.SECONDS.toNanos(
                                2 * Chat.WebSocket.SILENCE + 1));
                        try {
                            raw.readAll();
                        } catch (SocketTimeoutException open) {
                            fail("nobody watches any more");
                        } catch (SocketException reset) {
                            continue;
                        }
                    }
            }
        }
    }
}

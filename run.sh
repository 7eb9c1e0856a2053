#!/bin/sh
# ./run.sh [options]         starts the chat (./run.sh --help)
# ./run.sh test [NAME…]      runs all tests, or some: ./run.sh test Frames Rooms#namesAreUnique
# ./run.sh bench [options]   measures speed and memory
# Classes and JUnit are kept in ~/.cache/chat.java ($XDG_CACHE_HOME/chat.java if that is set).

# Flags of the JVM, each with its reason:
#   SerialGC, HeapFreeRatio: live data is small, so an idle connection costs half the memory; as fast
#     as the default collector, or faster
#   Xmn16m: for what lives shortly; with half as much, messages of 1 MB are half as fast
#   trackAllThreads=false: does not keep a list of all virtual threads, which start and end all the time
#   -Xlog: its warnings go to stderr; stdout is for the one line that names the ports
flags="-XX:+UseSerialGC -Xmn16m -XX:MinHeapFreeRatio=5 -XX:MaxHeapFreeRatio=10 -Djdk.trackAllThreads=false
    -Xlog:disable -Xlog:all=warning:stderr"
# If memory runs out, the process ends, so that what watches it can start it again: what is left
# after that would serve nobody.
always=-XX:+ExitOnOutOfMemoryError

junit=org.junit.platform:junit-platform-console-standalone:1.14.4
junit_sha256=7c6968cbcaf4301c729f202b23b7d736c5d88be625fc7d27ad5d746146a8bc28
axe=axe-core@4.14.1 # what finds out whether everybody can use the page
axe_sha256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
ws=ws@8.23.0 # another's WebSockets, for Node
ws_sha256=b8bd105a274ae9ca114f8c6ce4d9dbb0c764fe5118ba633c557e1703e297c587
maven_copy=org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy

fail() { echo "run.sh: $*" >&2; exit 1; }

consider() { # takes the folder $1 if it is a newer JDK than $version; starts no JVM to find out
    [ -x "$1/bin/javac" ] && [ -r "$1/release" ] || return
    while IFS='="' read -r name _ number _; do
        [ "$name" = JAVA_VERSION ] || continue
        [ "${number%%[!0-9]*}" -gt "$version" ] && jdk=$1 version=${number%%[!0-9]*}
        break
    done <"$1/release"
}

find_jdk() { # JAVA_HOME, the first in PATH that will do, the newest of the usual folders
    version=20
    consider "$JAVA_HOME"
    IFS=:
    for folder in $PATH; do
        if [ "$version" -lt 21 ] && [ -x "$folder/javac" ] && ! consider "${folder%/bin}"; then
            path=$(readlink -f "$folder/javac") && consider "${path%/bin/javac}"
        fi
    done
    unset IFS
    [ "$version" -gt 20 ] && return
    for folder in /usr/lib/jvm/* /usr/java/* /usr/local/openjdk* /opt/* ~/.jdks/* ~/.sdkman/candidates/java/* \
        /Library/Java/JavaVirtualMachines/*/Contents/Home ~/Library/Java/JavaVirtualMachines/*/Contents/Home \
        /opt/homebrew/opt/openjdk*/libexec/*.jdk/Contents/Home /usr/local/opt/openjdk*/libexec/*.jdk/Contents/Home; do
        consider "$folder"
    done
    [ "$version" -gt 20 ] || fail "no JDK 21 or later in JAVA_HOME, PATH or the usual folders:" \
        "please install one, for example Temurin 25, or Debian's openjdk-21-jdk-headless"
}

set_aside() { # the user's flags for all JVMs: they are for the chat, not for what makes it
    tool_options=$JAVA_TOOL_OPTIONS jdk_options=$JDK_JAVA_OPTIONS old_options=$_JAVA_OPTIONS
    unset JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS
}

take_back() { # they win: beside more than properties, neither our flags nor the archive would fit
    [ -z "$tool_options" ] || export JAVA_TOOL_OPTIONS="$tool_options"
    [ -z "$jdk_options" ] || export JDK_JAVA_OPTIONS="$jdk_options"
    [ -z "$old_options" ] || export _JAVA_OPTIONS="$old_options"
    set -f
    for flag in $tool_options $jdk_options $old_options; do
        case $flag in -D*) ;; *) flags='' use='' ;; esac
    done
    set +f
}

find_made() { # sets $made to the folder with what was made of this Chat.java, run.sh and JDK
    # shellcheck disable=SC2046 # one word for each checksum, size and name
    set -- $(cd "$here" && cksum Chat.java run.sh "$jdk/release")
    for made in "$cache/$1-$2-$4-$7".*; do
        [ -f "$made/jdk" ] || continue
        { read -r by && read -r place && read -r sizes; } <"$made/jdk"
        [ "$by" = "$jdk" ] && [ "$place" = "$made" ] && [ "$sizes" = "$(sizes)" ] && return
    done
    made=$cache/$1-$2-$4-$7
    false
}

sizes() { # tell whether what was made is still whole; if it was moved, the archive does not fit
    # shellcheck disable=SC2046 # one line
    echo $(cd "$made" && wc -c chat.jar archive 2>/dev/null)
}

# Two starts at the same time make a folder each. The file "jdk" comes last: what is half made is
# never taken. The archive holds the loaded classes (from JDK 25 on also linked, with profiles).
make() { # makes that folder; false if nothing can be written there
    { mkdir -p "$cache" && work=$(mktemp -d "$made.XXXXXX"); } 2>/dev/null || return
    made=$work
    [ -t 2 ] && echo "compiling, as this Chat.java is new here" >&2
    find "$cache" -type d -name '*.??????' -prune -mmin +60 -exec rm -rf {} +
    crowd >"$made/Crowd.java"
    "$jdk/bin/javac" -d "$made/classes" "$here/Chat.java" "$made/Crowd.java" &&
        "$jdk/bin/jar" -cf "$made/chat.jar" -C "$made/classes" . || exit 1
    # shellcheck disable=SC2086 # several flags
    "$jdk/bin/java" -XX:TieredStopAtLevel=1 -cp "$made/classes" Crowd "$jdk/bin/java" $flags \
        "$record=$made/unfinished" -cp "$made/chat.jar" Chat --http-port=0 --ws-port=0 \
        </dev/null >"$made/log" 2>&1 && mv "$made/unfinished" "$made/archive" 2>>"$made/log"
    rm -r "$made/classes"
    printf '%s\n' "$jdk" "$made" "$(sizes)" >"$made/new" && mv "$made/new" "$made/jdk" && work=
}

crowd() { # starts a server and does, for some seconds, what the archive shall know well
    cat <<'JAVA'
import java.io.*;
import java.net.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.zip.Deflater;
import static java.nio.charset.StandardCharsets.*;

class Crowd {
    static final int LIMIT = 60_000;                                // ms, with making the archive
    static final long PART = 1_500_000_000;                         // ns; a slow machine does less
    static final int TEXT = 0x81, COMPRESSED = 0xc1, CLOSE = 0x88;  // with FIN
    static int httpPort, port;
    static volatile long end;                                       // of this part

    public static void main(String[] command) throws Exception {
        var errors = ProcessBuilder.Redirect.INHERIT;
        Process server = new ProcessBuilder(command).redirectError(errors).start();
        Thread.startVirtualThread(() -> stopLate(server));
        try (var people = Executors.newCachedThreadPool()) {
            var ports = new Scanner(server.inputReader().readLine()).useDelimiter("\\D+");
            httpPort = ports.nextInt();
            port = ports.nextInt();
            invite(people, 8, () -> comeAndGo(300));
            invite(people, 8, () -> talk("/echo", 1000, 1));
            invite(people, 8, () -> talk("/echo", 300, 16));
            invite(people, 50, () -> talk("/chat/crowd", 20, 1));
        } finally {
            server.destroy();                                       // as ^C does
            server.waitFor();
        }
    }

    static void stopLate(Process server) {
        try { Thread.sleep(LIMIT); } catch (InterruptedException never) { }
        server.destroyForcibly();
        Runtime.getRuntime().halt(1);                               // then there is no archive
    }

    static void invite(ExecutorService people, int count, Callable<Void> todo) throws Exception {
        end = System.nanoTime() + PART;
        people.invokeAll(Collections.nCopies(count, todo));
    }

    static Void comeAndGo(int times) throws IOException {
        for (int i = 0; i < times && System.nanoTime() < end; i++) {
            if (i % 20 == 0) getPage();
            try (Socket socket = enter(i % 2 == 0 ? "/" : "/echo")) { leave(socket); }
        }
        return null;
    }

    /// Says lines, so many at once, and reads on until the last of them is heard.
    static Void talk(String path, int times, int atOnce) throws IOException {
        try (Socket socket = enter(path)) {
            var in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
            for (int i = 0; i < times && System.nanoTime() < end; i++) {
                String line = Thread.currentThread().threadId() + " says " + i;
                var frames = new ByteArrayOutputStream();
                for (int n = 0; n < atOnce; n++) frames.write(frame(TEXT, line.getBytes(UTF_8)));
                socket.getOutputStream().write(frames.toByteArray());
                for (int heard = 0; heard < atOnce; )
                    if (read(in).endsWith(line)) heard++;
                if (i % 10 == 0 && path.equals("/echo")) {
                    byte[] text = compress("a line that comes again; ".repeat(100));
                    socket.getOutputStream().write(frame(COMPRESSED, text));
                    read(in);
                }
            }
            leave(socket);
        }
        return null;
    }

    static void getPage() throws IOException {
        try (Socket socket = ask(httpPort, "/", "Connection: close")) {
            socket.getInputStream().readAllBytes();
        }
    }

    static Socket enter(String path) throws IOException {
        Socket socket = ask(port, path, """
                Connection: keep-alive, Upgrade\r
                Upgrade: websocket\r
                Sec-WebSocket-Version: 13\r
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
                Sec-WebSocket-Protocol: presence\r
                Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits""");
        for (int last = 0; last != 0x0d0a0d0a; ) {
            int next = socket.getInputStream().read();
            if (next < 0) throw new EOFException();
            last = last << 8 | next;
        }
        return socket;
    }

    static Socket ask(int port, String path, String headers) throws IOException {
        Socket socket = new Socket("localhost", port);
        socket.setTcpNoDelay(true);
        socket.setSoTimeout(3_000);
        String request = "GET " + path + " HTTP/1.1\r\nHost: localhost:" + port
                + "\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept-Language: en\r\n";
        socket.getOutputStream().write((request + headers + "\r\n\r\n").getBytes(UTF_8));
        return socket;
    }

    static void leave(Socket socket) throws IOException {
        socket.getOutputStream().write(frame(CLOSE, new byte[] {3, (byte) 0xe8}));
        socket.getInputStream().readAllBytes();
    }

    static byte[] frame(int first, byte[] payload) {
        byte[] frame = new byte[6 + payload.length];
        frame[0] = (byte) first;
        frame[1] = (byte) (0x80 | payload.length);                  // and four zeros to mask with
        System.arraycopy(payload, 0, frame, 6, payload.length);
        return frame;
    }

    static String read(DataInputStream in) throws IOException {
        in.readByte();
        int length = in.readUnsignedByte();
        if (length == 126) length = in.readUnsignedShort();
        return new String(in.readNBytes(length), UTF_8);
    }

    static byte[] compress(String text) {
        var deflater = new Deflater(Deflater.BEST_SPEED, true);
        byte[] out = new byte[125];
        deflater.setInput(text.getBytes(UTF_8));
        int size = deflater.deflate(out, 0, out.length, Deflater.SYNC_FLUSH);
        deflater.end();
        return Arrays.copyOf(out, size - 4);
    }
}
JAVA
}

make_tests() { # gets JUnit, compiles Chat.java and ChatTest.java
    { [ -n "$cache" ] && mkdir -p "$cache" && work=$(mktemp -d "$cache/tests.XXXXXX"); } 2>/dev/null ||
        fail "cannot write to the cache folder; set XDG_CACHE_HOME to one that can be written"
    jar=$cache/junit-${junit##*:}.jar
    if [ ! -f "$jar" ]; then
        command -v mvn >/dev/null || fail "Maven is needed to fetch JUnit (Debian: apt install maven)"
        mvn -q -B -Dstyle.color=never $maven_copy "-Dartifact=$junit" "-DoutputDirectory=$work" \
            </dev/null >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "Maven could not fetch $junit"; }
        mv "$work"/*.jar "$jar"
    fi
    check "$jar" $junit_sha256
    "$jdk/bin/javac" --release 21 -Xlint:all,-serial -Werror -cp "$jar" -d "$work" Chat.java ChatTest.java || exit 1
}

check() { # stops if the file $1 does not have the SHA-256 $2
    sum=$(if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi <"$1")
    [ "${sum%% *}" = "$2" ] && return
    rm -f "$1"
    fail "$1 was not the file expected (SHA-256 ${sum%% *}): deleted"
}

get_package() { # puts npm's package $1 (NAME@VERSION), which has the SHA-256 $2, into $work/NAME
    name=${1%@*} package=$cache/${1%@*}-${1#*@}.tgz
    if [ ! -f "$package" ]; then
        if ! (cd "$work" && npm pack --silent "$1" && mv "${package##*/}" "$package") \
            </dev/null >"$work/log" 2>&1; then
            echo "run.sh: npm could not fetch $1, so tests that need it are skipped" >&2
            return
        fi
    fi
    check "$package" "$2"
    mkdir "$work/$name" && tar -xzf "$package" -C "$work/$name" --strip-components=1
}

run_tests() { # all, or those named; the last line has the counts, which decide the exit code
    get_package $axe $axe_sha256
    get_package $ws $ws_sha256
    code=0
    "$jdk/bin/java" -Dnpm="$work" -cp "$work:$jar" 'ChatTest$Report' "$@" || code=$?
    [ "$code" -lt 2 ] || printf '%s\n' "the JVM of the tests ended with $code" '0 passed, 1 failed'
    return "$code"
}

case $0 in */*) here=$0 ;; *) here=./$0 ;; esac
[ -L "$here" ] && here=$(readlink -f "$here")
here=${here%/*}
[ -n "${XDG_CACHE_HOME:-$HOME}" ] && cache=${XDG_CACHE_HOME:-$HOME/.cache}/chat.java
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
find_jdk
# Without a locale Java could not open files with letters beyond ASCII in their paths. What it writes
# stays ASCII, though, as more can't be expected of the terminal.
case ${LC_ALL:-${LC_CTYPE:-$LANG}} in
    '' | C | POSIX)
        always="$always -Dstdout.encoding=US-ASCII -Dstderr.encoding=US-ASCII"
        export LC_ALL=C.UTF-8 ;;
esac

case $1 in
    test | bench)
        cd "$here" || exit 1
        make_tests
        export JAVA_HOME="$jdk" PATH="$jdk/bin:$PATH" # what the tests start is on the same JDK
        task=$1
        shift
        # shellcheck disable=SC2086 # several flags
        case $task in
            test) run_tests "$@" ;;
            bench) "$jdk/bin/java" $flags -cp "$work:$jar" ChatTest "$@" ;;
        esac
        exit
esac

record=-XX:AOTCacheOutput use=-XX:AOTCache
[ "$version" -ge 25 ] || record=-XX:ArchiveClassesAtExit use=-XX:SharedArchiveFile
set_aside
case $cache in *:*) cache='' ;; esac # a class path can't name it
if [ -n "$cache" ] && { find_made || make; }; then
    [ -f "$made/archive" ] && use=$use=$made/archive || use=
    take_back
    # shellcheck disable=SC2086 # several flags
    exec "$jdk/bin/java" $flags $always ${use:+"$use"} -cp "$made/chat.jar" Chat "$@"
fi
echo "run.sh: no cache folder can be written or named, so it starts from the source, slower" >&2
take_back
# shellcheck disable=SC2086 # several flags
exec "$jdk/bin/java" $always "$here/Chat.java" "$@"

package relay

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTCPStalledPipes has many flows to destinations that take no bytes, in a process whose user may have pipes of 64 MiB
// in all. They hold no pipe, and what other flows get is as large as ever.
func TestTCPStalledPipes(t *testing.T) {
	if !inNamespace(t) { // for the sake of its own process and links
		return
	}
	ip(t, 0, `
		link set lo mtu 1500
		link set lo up`)
	unprivileged(t)
	for _, segment := range []int{1460, 88} {
		t.Run(strconv.Itoa(segment), func(t *testing.T) { testStalledPipes(t, segment) })
	}
}

// testStalledPipes has destinations that ask for segments of a size.
func testStalledPipes(t *testing.T, segment int) {
	const flows = 320
	b := startTestbed(t, Limits{DrainTimeout: 1}, func(r *Relay) { r.pipes.limit = 2 * flows })
	onListener(t, b.origin, func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096),
			unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_MAXSEG, segment))
	})
	var clients sync.WaitGroup
	defer clients.Wait()
	for range flows {
		client, server := b.flow(t)
		defer reset(client)
		defer reset(server)
		clients.Go(func() { io.Copy(client, zeros{}) })
	}
	waitFor(t, "stalls", func() bool { return b.stalled() == flows })
	if got := b.holding(); got != 0 {
		t.Errorf("got %d pipes held by flows that wait; want none", got)
	}
	pipe := b.pipes.take()
	defer b.pipes.put(pipe)
	if size, err := unix.FcntlInt(uintptr(pipe.r), unix.F_GETPIPE_SZ, 0); err != nil || size != pipeSize {
		t.Errorf("got a pipe of %d bytes, error %v; want %d", size, err, pipeSize)
	}
	client, server := b.flow(t)
	write(t, client, "question")
	wantBytes(t, server, "question")
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// unprivileged makes the process that of another user, unless it has no rights in the first place.
func unprivileged(t *testing.T) {
	t.Helper()
	const uid = 54321
	if err := syscall.Setresuid(uid, uid, uid); err != nil && err != syscall.EINVAL {
		t.Fatal(err)
	}
}

func onListener(t *testing.T, ln *net.TCPListener, f func(fd int) error) {
	t.Helper()
	if err := control(func(fd int, _ bool) error { return f(fd) })("", "", must(ln.SyscallConn())); err != nil {
		t.Fatal(err)
	}
}

// TestTCPPipesExhausted has all pipes in use while a flow waits for one: it goes on when one comes back, and ends like
// any other when it must.
func TestTCPPipesExhausted(t *testing.T) {
	t.Run("goes-on", func(t *testing.T) {
		b := startTestbed(t, Limits{}, func(r *Relay) { r.pipes.limit = 1 })
		client, server := b.flow(t)
		pipe := b.takePipe(t)
		write(t, client, "after you")
		waitFor(t, "a wait for a pipe", b.pipes.starved)
		b.pipes.put(pipe)
		wantBytes(t, server, "after you")
	})
	t.Run("ends", func(t *testing.T) {
		b := startTestbed(t, Limits{DrainTimeout: time.Millisecond}, func(r *Relay) { r.pipes.limit = 1 })
		client, server := b.flow(t)
		defer b.pipes.put(b.takePipe(t))
		write(t, client, "too late")
		waitFor(t, "a wait for a pipe", b.pipes.starved)
		b.stop()
		wantReset(t, client)
		wantReset(t, server)
		b.waitActive(t, 0)
	})
}

// takePipe takes the only pipe that there is.
func (b *testbed) takePipe(t *testing.T) (p *pipe) {
	t.Helper()
	waitFor(t, "the pipe", func() bool { p = b.pipes.take(); return p != nil })
	return p
}

// TestPipesShrink checks that a pipe with bytes in it becomes small, and large again when they are gone.
func TestPipesShrink(t *testing.T) {
	pipes := newPipes(1)
	defer pipes.close()
	p := pipes.take()
	if !p.large {
		t.Fatal("got a small pipe; want a large one")
	}
	if _, err := unix.Write(p.w, []byte("left")); err != nil {
		t.Fatal(err)
	}
	pipes.shrink(p)
	size, err := unix.FcntlInt(uintptr(p.r), unix.F_GETPIPE_SZ, 0)
	if err != nil || size != unix.Getpagesize() || pipes.large != 0 {
		t.Errorf("got a pipe of %d bytes, error %v, %d large ones; want a page, 0", size, err, pipes.large)
	}
	if _, err := unix.Read(p.r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	pipes.put(p)
	if again := pipes.take(); again != p || !p.large || pipes.large != 1 {
		t.Errorf("got the same pipe: %v, large: %v; want both", again == p, p.large)
	}
	pipes.put(p)
}

// TestTCPSlowReaderAfterEnd has a server that ends while its client still reads, slowly, for several times as long as
// a flow may be silent then, and the time that a reset waits after it.
func TestTCPSlowReaderAfterEnd(t *testing.T) {
	const size, piece = 3 << 19, 32 << 10
	b := newTestbed(t, Limits{TCPHalfClosed: 320 * time.Millisecond})
	client, server := b.flow(t)
	if n, err := io.CopyN(server, zeros{}, size); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	server.Close()
	waitFor(t, "everything to be passed on", func() bool { return b.Stats().BytesBack[TCP] == size })
	tick := time.NewTicker(70 * time.Millisecond)
	defer tick.Stop()
	for left := size; left > 0; left -= piece {
		<-tick.C
		if n, err := io.CopyN(io.Discard, client, piece); err != nil {
			t.Fatalf("got %v, %d bytes before the end; want them", err, left-int(n))
		}
	}
	wantEOF(t, client)
	client.Close()
	b.waitActive(t, 0)
}

// TestTCPNoReaderAfterEnd has a client that reads nothing: window probes are no progress.
func TestTCPNoReaderAfterEnd(t *testing.T) {
	b := newTestbed(t, Limits{TCPHalfClosed: 320 * time.Millisecond})
	_, server := b.flow(t)
	if n, err := io.CopyN(server, zeros{}, 1<<20); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	server.CloseWrite()
	b.waitActive(t, 0)
	wantReset(t, server)
}

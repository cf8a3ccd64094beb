package host

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// slots is the most relays that may run in one network namespace at a time. Two are usual during a restart.
const slots = 64

// slot is the number under which one relay puts routes and a table in place: it is the metric of its local routes, and
// the end of its table's name. While the relay runs, an abstract Unix socket has that number too. The kernel closes that
// socket however the process ends, and abstract names are those of the network namespace, like the routes, so that what
// a relay left behind can be told from what belongs to one that runs.
type slot struct {
	number int
	socket *net.UnixConn
}

// takeSlot returns the first slot that no relay has.
func takeSlot() (*slot, error) {
	for n := 1; n <= slots; n++ {
		c, err := bindSlot(n)
		if err == nil {
			return &slot{n, c}, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%d relays run in this network namespace; no more are possible", slots)
}

// bindSlot takes the slot n, or returns EADDRINUSE if a relay has it.
func bindSlot(n int) (*net.UnixConn, error) {
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: fmt.Sprintf("@cfrd/relay/%d", n), Net: "unixgram"})
}

// release ends what s stands for. It may be called again, and s may be nil.
func (s *slot) release() {
	if s != nil {
		s.socket.Close()
	}
}

// taken reports whether a relay that runs has the slot n.
func taken(n int) bool {
	if n < 1 || n > slots {
		return false
	}
	c, err := bindSlot(n)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}

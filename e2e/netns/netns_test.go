package netns

import (
	"net"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// TestAlone wants nothing but the loopback interface, which is up, with both families.
func TestAlone(t *testing.T) {
	Require(t)
	list, err := net.Interfaces()
	if err != nil || len(list) != 1 || list[0].Flags&net.FlagUp == 0 {
		t.Fatalf("got interfaces %v, error %v; want lo alone, up", list, err)
	}
	for _, addr := range []string{"127.0.0.1:0", "127.80.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		ln.Close()
	}
}

func TestPort(t *testing.T) {
	seen := make(map[uint16]bool)
	for range lastPort - firstPort {
		p := Port(t)
		if seen[p] || p < firstPort || p >= lastPort {
			t.Fatalf("got port %d again, or out of range", p)
		}
		seen[p] = true
	}
}

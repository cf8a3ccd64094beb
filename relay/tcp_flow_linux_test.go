package relay

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestSweepTimes checks that a flow ends neither before its time nor much later. Its connections are
// closed: no socket may be in a bubble.
func TestSweepTimes(t *testing.T) {
	const idle, halfClosed = 2 * time.Hour, 4 * time.Minute
	tests := []struct {
		name    string
		prepare func(*tcpFlow)
		want    time.Duration
	}{
		{"idle", func(*tcpFlow) {}, idle},
		{"half-closed", func(f *tcpFlow) { f.ended.Store(1) }, halfClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := Limits{TCPIdle: idle, TCPHalfClosed: halfClosed}
				r := &Relay{cfg: Config{Limits: limits}}
				r.pipes, r.flows.all = newPipes(1), map[*tcpFlow]struct{}{}
				ended := make(chan struct{})
				defer close(ended)
				go r.sweep(ended)

				f := &tcpFlow{client: new(net.TCPConn), server: new(net.TCPConn)}
				tt.prepare(f)
				r.flows.add(f)
				interval := limits.sweepInterval()
				time.Sleep(time.Minute + interval/2)
				f.idle.Store(0) // a byte moves
				time.Sleep(tt.want - time.Millisecond)
				if f.broken.Load() {
					t.Errorf("got the end before %v", tt.want)
				}
				time.Sleep(2*interval + time.Millisecond)
				if !f.broken.Load() {
					t.Errorf("got no end after %v", tt.want)
				}
			})
		})
	}
}

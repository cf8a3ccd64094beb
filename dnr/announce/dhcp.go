package announce

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/time/rate"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// replyRate is how many DHCP requests each server answers per second, and in one burst. It is more than the hosts of a
// link send when the power comes back, and too little to be of use for flooding a host.
const replyRate = 100

// Why a request of DHCP gets no answer.
var (
	errNotForUs  = errors.New("announce: DHCP message that this server does not answer")
	errNotAsked  = errors.New("announce: DHCP message asks for nothing that is announced")
	errNotOnLink = errors.New("announce: DHCP message from beyond the link")
)

// dhcpServer answers those requests of one version of DHCP that want no address. Only the goroutine that serves the
// link uses it.
type dhcpServer struct {
	*Announcer
	// answer returns the reply to a request, or why there is none.
	answer  func(request link.Packet, l link.State) (link.Packet, error)
	limiter *rate.Limiter
}

func newDHCPServer(a *Announcer, answer func(link.Packet, link.State) (link.Packet, error)) *dhcpServer {
	return &dhcpServer{Announcer: a, answer: answer, limiter: rate.NewLimiter(replyRate, replyRate)}
}

// serve is a serveFunc.
func (d *dhcpServer) serve(ctx context.Context, s *session) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		case <-s.linkChanged:
			if err := s.checkLink(d.link.Load()); err != nil {
				return err
			}
		case p := <-s.packets:
			d.handle(p, s)
		}
	}
}

// handle answers p if it can be answered.
func (d *dhcpServer) handle(p link.Packet, s *session) {
	reply, err := d.answer(p, *d.link.Load())
	switch {
	case errors.Is(err, errNotForUs), errors.Is(err, errNotAsked):
		return
	case err != nil:
		d.stats.invalid.Add(1)
		d.cfg.Log.Debug().Err(err).Msg("ignored")
		return
	case !d.limiter.Allow():
		d.stats.limited.Add(1)
		return
	}
	if err := s.conn.Send(reply); err != nil {
		d.cfg.Log.Debug().Err(err).Msg("reply not sent")
		return
	}
	if reply.Peer.Addr().Is4() {
		d.stats.dhcpv4.Add(1)
		return
	}
	d.stats.dhcpv6.Add(1)
}

// serversOf returns those of addrs that are of one family and that hosts can use, each once.
func serversOf(addrs []netip.Addr, v4 bool) (list []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() == v4 && dnr.Unusable(a) == "" && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// octets returns the concatenated addresses.
func octets(addrs []netip.Addr) (data []byte) {
	for _, a := range addrs {
		data = append(data, a.AsSlice()...)
	}
	return data
}

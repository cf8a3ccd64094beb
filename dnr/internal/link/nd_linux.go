package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// ndConn is a raw socket for Neighbor Discovery.
type ndConn struct {
	pc   *ipv6.PacketConn
	link State
}

// OpenND opens a socket that receives Router Solicitations and Router Advertisements on l.
func OpenND(l State) (Conn, error) {
	raw, err := listenOn(l.Name, "ip6:ipv6-icmp", "::", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) // see advertiser.source
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("sending Router Advertisements needs CAP_NET_RAW: %w", err)
	case err != nil:
		return nil, err
	}
	c := &ndConn{ipv6.NewPacketConn(raw), l}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

func (c *ndConn) prepare() error {
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	ifi := &net.Interface{Index: c.link.Index}
	return errors.Join(
		c.pc.SetICMPFilter(&filter),
		c.pc.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst, true),
		c.pc.SetHopLimit(NDHopLimit),
		c.pc.SetMulticastHopLimit(NDHopLimit),
		c.pc.SetMulticastLoopback(false),
		c.pc.SetMulticastInterface(ifi),
		c.pc.JoinGroup(ifi, &net.IPAddr{IP: AllRouters.AsSlice()}),
	)
}

func (c *ndConn) Receive(buf []byte) (Packet, error) {
	n, cm, src, err := c.pc.ReadFrom(buf)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Data: buf[:n]}
	if cm != nil {
		p.Hops, p.To = cm.HopLimit, addrOf(cm.Dst)
	}
	if ip, ok := src.(*net.IPAddr); ok {
		p.Peer = netip.AddrPortFrom(addrOf(ip.IP), 0)
	}
	return p, nil
}

func (c *ndConn) Send(p Packet) error {
	cm := &ipv6.ControlMessage{HopLimit: NDHopLimit, Src: p.From.AsSlice(), IfIndex: c.link.Index}
	_, err := c.pc.WriteTo(p.Data, cm, &net.IPAddr{IP: p.Peer.Addr().AsSlice(), Zone: c.link.Name})
	return err
}

func (c *ndConn) Close() error { return c.pc.Close() }

// addrOf returns ip as an Addr, or the zero Addr.
func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr
}

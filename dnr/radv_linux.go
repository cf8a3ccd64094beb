package dnr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// ndConn is a raw socket for Neighbor Discovery.
type ndConn struct {
	pc   *ipv6.PacketConn
	link linkState
}

// openND opens a socket that receives Router Solicitations and Router Advertisements on l.
func openND(l linkState) (packetConn, error) {
	raw, err := listenOn(l.name, "ip6:ipv6-icmp", "::", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) // see advertiser.source
	})
	switch {
	case isPermission(err):
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
	ifi := &net.Interface{Index: c.link.index}
	return errors.Join(
		c.pc.SetICMPFilter(&filter),
		c.pc.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst, true),
		c.pc.SetHopLimit(ndHopLimit),
		c.pc.SetMulticastHopLimit(ndHopLimit),
		c.pc.SetMulticastLoopback(false),
		c.pc.SetMulticastInterface(ifi),
		c.pc.JoinGroup(ifi, &net.IPAddr{IP: allRouters.AsSlice()}),
	)
}

func (c *ndConn) receive(buf []byte) (packet, error) {
	n, cm, src, err := c.pc.ReadFrom(buf)
	if err != nil {
		return packet{}, err
	}
	p := packet{data: buf[:n]}
	if cm != nil {
		p.hops, p.to = cm.HopLimit, addrOf(cm.Dst)
	}
	if ip, ok := src.(*net.IPAddr); ok {
		p.peer = netip.AddrPortFrom(addrOf(ip.IP), 0)
	}
	return p, nil
}

func (c *ndConn) send(p packet) error {
	cm := &ipv6.ControlMessage{HopLimit: ndHopLimit, Src: p.from.AsSlice(), IfIndex: c.link.index}
	_, err := c.pc.WriteTo(p.data, cm, &net.IPAddr{IP: p.peer.Addr().AsSlice(), Zone: c.link.name})
	return err
}

func (c *ndConn) Close() error { return c.pc.Close() }

// addrOf returns ip as an Addr, or the zero Addr.
func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr
}

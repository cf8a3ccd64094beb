package dnr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// listenDHCP opens the port of a DHCP server on l.
func listenDHCP(l linkState, network, host string, port int, part string) (*net.UDPConn, error) {
	pc, err := listenOn(l.name, network, net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case isPermission(err):
		return nil, fmt.Errorf("UDP port %d needs CAP_NET_BIND_SERVICE: %w", port, err)
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("%w: UDP port %d belongs to a DHCP server of this host: let that one announce the "+
			"resolver, as `cfrd dnr print` shows, and switch %s off here: %w", errPortTaken, port, part, err)
	case err != nil:
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// dhcp6Conn is the socket of a DHCPv6 server.
type dhcp6Conn struct {
	pc   *ipv6.PacketConn
	link linkState
}

// openDHCPv6 opens a socket that receives what clients on l send to all servers.
func openDHCPv6(l linkState) (packetConn, error) {
	udp, err := listenDHCP(l, "udp6", "::", dhcp6ServerPort, partDHCPv6)
	if err != nil {
		return nil, err
	}
	c := &dhcp6Conn{ipv6.NewPacketConn(udp), l}
	ifi := &net.Interface{Index: l.index}
	err = errors.Join(
		c.pc.SetControlMessage(ipv6.FlagDst, true),
		c.pc.JoinGroup(ifi, &net.UDPAddr{IP: allDHCPServers.AsSlice()}),
	)
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return c, nil
}

func (c *dhcp6Conn) receive(buf []byte) (packet, error) {
	n, cm, src, err := c.pc.ReadFrom(buf)
	if err != nil {
		return packet{}, err
	}
	p := packet{data: buf[:n]}
	if cm != nil {
		p.to = addrOf(cm.Dst)
	}
	if udp, ok := src.(*net.UDPAddr); ok {
		p.peer = netip.AddrPortFrom(addrOf(udp.IP), uint16(udp.Port))
	}
	return p, nil
}

func (c *dhcp6Conn) send(p packet) error {
	cm := &ipv6.ControlMessage{Src: c.link.linkLocal.AsSlice(), IfIndex: c.link.index}
	dst := &net.UDPAddr{IP: p.peer.Addr().AsSlice(), Port: int(p.peer.Port()), Zone: c.link.name}
	_, err := c.pc.WriteTo(p.data, cm, dst)
	return err
}

func (c *dhcp6Conn) Close() error { return c.pc.Close() }

// dhcp4Conn is the socket of a DHCPv4 server.
type dhcp4Conn struct{ *net.UDPConn }

// openDHCPv4 opens a socket that receives what clients on l send.
func openDHCPv4(l linkState) (packetConn, error) {
	udp, err := listenDHCP(l, "udp4", "0.0.0.0", dhcp4ServerPort, partDHCPv4)
	if err != nil {
		return nil, err
	}
	return dhcp4Conn{udp}, nil
}

func (c dhcp4Conn) receive(buf []byte) (packet, error) {
	n, from, err := c.ReadFromUDPAddrPort(buf)
	return packet{peer: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), data: buf[:n]}, err
}

func (c dhcp4Conn) send(p packet) error {
	_, err := c.WriteToUDPAddrPort(p.data, p.peer)
	return err
}

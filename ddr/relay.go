package ddr

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// RelayService describes the relay as an SVCB record that clients which do not know it must skip twice: it has an
// unknown mandatory key (RFC 9462, Section 3) and no alpn (RFC 9461, Section 4.1). The draft names no format of its
// own for this. See draft-scalone-cfr-source-privacy-01, Section 6.1.
//
// It is only published together with a transport, because a client can trust nothing of it before it has verified an
// encrypted resolver. Even then a client uses a relay that a network announces only if its user has asked for that.
type RelayService struct {
	Name      string       // TargetName; empty means Config.Name
	Addresses []netip.Addr // of Name, if that is not Config.Name
	Key       uint16       // SvcParamKey, private use; 0 means 65280
	Value     []byte       // of Key; its first octet is a version. Nil means version 1 with RelayTCP and RelayUDP.
	Port      uint16       // 0: no port parameter
	// Clients are the prefixes of the clients that may use the relay. Answer and PvD name it to nobody else, and to
	// nobody at all if Clients is empty. Records does not depend on it, because a zone file is the same for everybody.
	Clients []netip.Prefix
	// Ports are the TCP and UDP ports at which it takes flows, for the provisioning domain. Nil leaves them out.
	Ports []uint16
}

// defaultRelayKey is the first SvcParamKey for private use. See RFC 9460, Section 14.3.1.
const defaultRelayKey = svcb.KeyPrivateFirst

// CheckRelayKey reports why key cannot be RelayService.Key, or nil if it can. See RFC 9460, Section 14.3.1.
func CheckRelayKey(key int) error {
	if key < int(svcb.KeyPrivateFirst) || key > int(svcb.KeyPrivateLast) {
		return fmt.Errorf("ddr: %d is not a SvcParamKey for private use; want %d to %d", key, svcb.KeyPrivateFirst, svcb.KeyPrivateLast)
	}
	return nil
}

// relayPriority is behind every transport.
const relayPriority = 100

// RelayFlags say what a relay carries.
type RelayFlags uint8

// The flags of version 1.
const (
	RelayTCP RelayFlags = 1 << iota
	RelayUDP
)

// relayVersion is the first octet of the value. In version 1 the second octet holds RelayFlags, of which undefined
// ones are sent as zero and ignored, and so is everything behind it.
const relayVersion = 1

// relayValue returns the value of the relay's key in version 1.
func relayValue(f RelayFlags) []byte { return []byte{relayVersion, byte(f)} }

func defaultRelayValue() []byte { return relayValue(RelayTCP | RelayUDP) }

// ParseRelayValue is the inverse of relayValue. It fails on versions that it does not know.
func ParseRelayValue(v []byte) (RelayFlags, error) {
	if len(v) < 2 || v[0] != relayVersion {
		return 0, fmt.Errorf("ddr: relay value %x is not of version %d", v, relayVersion)
	}
	return RelayFlags(v[1]), nil
}

// IsRelay reports whether r has the form of a RelayService with the given key.
func IsRelay(r svcb.Record, key uint16) bool {
	_, ok := r.Value(key)
	return ok && r.Priority != 0 && r.ALPN() == nil && slices.Contains(r.Mandatory(), key)
}

// relayFor reports whether there is a relay that client may use.
func (z *Zone) relayFor(client netip.Addr) bool {
	if z.relay == nil {
		return false
	}
	allowed, client := z.cfg.Relay.Clients, client.Unmap().WithZone("")
	return slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(client) })
}

func (z *Zone) setRelay() error {
	if z.cfg.Relay == nil {
		return nil
	}
	s := *z.cfg.Relay
	if s.Key == 0 {
		s.Key = defaultRelayKey
	}
	if err := CheckRelayKey(int(s.Key)); err != nil {
		return err
	}
	if s.Value == nil {
		s.Value = defaultRelayValue()
	}
	if len(s.Value) == 0 || len(s.Value) > 255 {
		return fmt.Errorf("ddr: relay value has %d octets; want 1 to 255", len(s.Value))
	}
	name := z.name
	if s.Name != "" {
		name = dns.CanonicalName(s.Name)
	}
	if err := svcb.CheckName(name); err != nil {
		return err
	}
	if name != z.name {
		z.relayAt = unique(s.Addresses)
	}
	z.relay = relayRecord(name, s)
	return nil
}

func relayRecord(name string, s RelayService) *dns.SVCB {
	key := dns.SVCBKey(s.Key)
	rr := &dns.SVCB{Priority: relayPriority, Target: name}
	rr.Value = append(rr.Value, &dns.SVCBMandatory{Code: []dns.SVCBKey{key}})
	if s.Port != 0 {
		rr.Value = append(rr.Value, &dns.SVCBPort{Port: s.Port})
	}
	rr.Value = append(rr.Value, &dns.SVCBLocal{KeyCode: key, Data: slices.Clone(s.Value)})
	return rr
}

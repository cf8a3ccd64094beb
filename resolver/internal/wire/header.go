// Package wire reads and writes DNS messages as octets: the query of a client (Query), the question in it (Key), the
// response to it as it is kept and sent many times (Response), and a response taken apart so that its records can be
// changed (Message). Whatever comes from outside is checked here, once, against hostile input.
//
// It does not know sockets, transports, the cache, upstreams or policies, and keeps no state. Reading a query and
// writing a kept response allocate nothing. All functions may be called from any goroutine; a value belongs to one
// goroutine at a time, but for a Response, which nobody changes once it is shared.
//
// Its callers are the listeners and the forwarder of the package resolver, the exchangers of resolver/upstream, and
// resolver/steer. Names and types of records are looked up in github.com/miekg/dns, whose messages are used only where
// speed does not matter.
package wire

// Sizes in octets.
const (
	HeaderLen  = 12    // of the header of a message. See RFC 1035, Section 4.1.1.
	MaxMessage = 65535 // the largest message that a two-octet length can announce
	maxName    = 255   // of a name in wire form. See RFC 1035, Section 2.3.4.
	maxLabel   = 63
	minUDP     = 512 // what every UDP client takes. See RFC 1035, Section 4.2.1.
	// MaxUDP is what we send and take over UDP: with the headers of IPv6 it fits into 1280 octets, so that nothing
	// is fragmented. See RFC 9715, Section 3.
	MaxUDP = 1232
	// paddingBlock is what responses are padded to a multiple of, QueryBlock what queries are. See RFC 8467, Section 4.1.
	paddingBlock = 468
	QueryBlock   = 128
	// optLen is the length of an OPT record without options.
	optLen = 11
)

// maxAdditional is how many records a query may carry besides its question. OPT, TSIG and SIG(0) are three.
const maxAdditional = 4

// typeMAILA is long obsolete. See RFC 973.
const typeMAILA = 254

// Bits of the third octet of the header, and of the fourth. See RFC 1035, Section 4.1.1, and RFC 4035, Section 3.2.
const (
	FlagQR = 1 << 7
	FlagAA = 1 << 2
	FlagTC = 1 << 1
	FlagRD = 1 << 0

	FlagRA = 1 << 7
	FlagAD = 1 << 5
	FlagCD = 1 << 4
)

// Channel is what a transport asks of the responses over it: a set of properties.
type Channel uint8

// The properties of a Channel.
const (
	Datagram Channel = 1 << iota // a response is truncated to what the client takes
	Session                      // a response can say how long the connection may be idle. See RFC 7828.
	Padded                       // what goes over it is encrypted, so that responses are padded. See RFC 8467.
)

package resolver

const (
	headerLen = 12
	maxName   = 255 // octets of a name in wire form. See RFC 1035, Section 2.3.4.
	maxLabel  = 63
	maxMsg    = 65535
	minUDP    = 512 // what every UDP client takes. See RFC 1035, Section 4.2.1.
	// maxUDP is what we send and take over UDP: with the headers of IPv6 it fits into 1280 octets, so that nothing
	// is fragmented. See RFC 9715, Section 3.
	maxUDP = 1232
	// maxAdditional is how many records a query may carry beside its question. OPT, TSIG and SIG(0) are three.
	maxAdditional = 4
	// paddingBlock is what replies are padded to, queryBlock what queries are. See RFC 8467, Section 4.1.
	paddingBlock = 468
	queryBlock   = 128
	// optLen is an OPT record without options.
	optLen = 11
	// typeMAILA is long obsolete. See RFC 973.
	typeMAILA = 254
)

// Bits of the third and fourth octet of the header.
const (
	flagQR = 1 << 7
	flagAA = 1 << 2
	flagTC = 1 << 1
	flagRD = 1 << 0

	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4
)

// channel says what a transport asks of the responses over it.
type channel uint8

const (
	datagram channel = 1 << iota // a response is truncated to what the client takes
	session                      // a response can say how long the connection may be idle. See RFC 7828.
	padded                       // it is encrypted, so that responses are padded. See RFC 8467.
)

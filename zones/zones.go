// Package zones answers what needs no upstream, from the operator's zone files (RFC 1035) and the special-use and
// locally served names of RFC 6761 and RFC 6303, and decides by rules which destinations are steered to the relay.
package zones

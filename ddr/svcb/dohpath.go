package svcb

import (
	"strings"
	"unicode/utf8"
)

// DefaultDoHPath is the URI template that DoH servers commonly use. See RFC 8484, Section 4.1.1.
const DefaultDoHPath = "/dns-query{?dns}"

// ExpandDoHPath expands a relative URI template whose only defined variable is dns, and returns the path with the
// query, to be put behind scheme and authority. An empty value leaves the variable undefined, which is what a POST
// request uses. The value must need no escaping, as base64url does not. See RFC 6570; RFC 9461, Section 5.
//
// It fails if the template is not UTF-8, does not name dns, or if the result is not the :path of a request.
func ExpandDoHPath(template, value string) (string, error) {
	if !utf8.ValidString(template) {
		return "", errDoHPath
	}
	var b strings.Builder
	named := false
	for rest := template; rest != ""; {
		literal, expr, found := strings.Cut(rest, "{")
		appendLiteral(&b, literal)
		if !found {
			break
		}
		expr, rest, found = strings.Cut(expr, "}")
		if !found || expr == "" {
			return "", errDoHPath
		}
		named = expand(&b, expr, value) || named
	}
	path := b.String()
	if !named || !strings.HasPrefix(template, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "#{}") {
		return "", errDoHPath
	}
	return path, nil
}

// CheckDoHPath returns why template cannot be the URI template of a DoH server, or nil if it can. See RFC 9461, Section
// 5.
func CheckDoHPath(template string) error {
	_, err := ExpandDoHPath(template, "x")
	return err
}

// appendLiteral copies literal text, in which all but printable ASCII is percent-encoded. See RFC 6570, Section 3.1.
func appendLiteral(b *strings.Builder, s string) {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
}

// expand writes one expression and reports whether it names the variable dns. See RFC 6570, Section 3.2.
func expand(b *strings.Builder, expr, value string) bool {
	first, named := "", false
	switch op := expr[0]; op {
	case '?', '&', ';', '/', '.':
		first, named = string(op), op == '?' || op == '&' || op == ';'
		expr = expr[1:]
	case '+':
		expr = expr[1:]
	}
	if !hasVariable(expr, "dns") {
		return false
	}
	if value == "" {
		return true
	}
	b.WriteString(first)
	if named {
		b.WriteString("dns=")
	}
	b.WriteString(value)
	return true
}

// hasVariable reports whether name is in a variable list such as "dns,x*,y:3".
func hasVariable(list, name string) bool {
	for v := range strings.SplitSeq(list, ",") {
		if strings.TrimSuffix(v, "*") == name {
			return true
		}
	}
	return false
}

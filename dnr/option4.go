package dnr

// Codes of DHCPv4 options without a length, and of the one that says where options continue. See RFC 2132, Sections 3
// and 9.3.
const (
	optionPad      = 0
	optionOverload = 52
	Option4End     = 255
)

// AppendOption4 appends an option of DHCPv4 to b: as one of code, length and data, or, if data has more than 255
// octets, as several of them that receivers put together again. See RFC 3396, Section 5.
func AppendOption4(b []byte, code byte, data []byte) []byte {
	for {
		n := min(len(data), 255)
		b = append(append(b, code, byte(n)), data[:n]...)
		if data = data[n:]; len(data) == 0 {
			return b
		}
	}
}

// CollectOption4 returns the data of an option of DHCPv4 that may be split: that of all its parts in the options field,
// then in the file and sname fields, as far as the message uses these for options. It reports whether the option is
// there at all. It ignores a part that is cut off, and what follows in the same field. See RFC 3396, Section 6.
func CollectOption4(code byte, options, file, sname []byte) (data []byte, found bool) {
	data, found = collect(nil, code, options)
	overload, _ := collect(nil, optionOverload, options)
	if len(overload) != 1 {
		return data, found
	}
	if overload[0] == 1 || overload[0] == 3 {
		var more bool
		data, more = collect(data, code, file)
		found = found || more
	}
	if overload[0] == 2 || overload[0] == 3 {
		var more bool
		data, more = collect(data, code, sname)
		found = found || more
	}
	return data, found
}

// collect appends the data of all options with code in field to data.
func collect(data []byte, code byte, field []byte) (_ []byte, found bool) {
	for len(field) > 0 && field[0] != Option4End {
		if field[0] == optionPad {
			field = field[1:]
			continue
		}
		if len(field) < 2 || len(field) < 2+int(field[1]) {
			break
		}
		end := 2 + int(field[1])
		if field[0] == code {
			data, found = append(data, field[2:end]...), true
		}
		field = field[end:]
	}
	return data, found
}

// CutOption4 returns where in a field an option begins that is cut off, and whether there is one.
func CutOption4(field []byte) (at int, ok bool) {
	for at < len(field) && field[at] != Option4End {
		if field[at] == optionPad {
			at++
			continue
		}
		if at+1 >= len(field) || at+2+int(field[at+1]) > len(field) {
			return at, true
		}
		at += 2 + int(field[at+1])
	}
	return 0, false
}

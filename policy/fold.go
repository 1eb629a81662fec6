package policy

import (
	"unicode"
	"unicode/utf8"
)

// appendFolded appends text in the one spelling that all spellings of it have
// which differ only in case, by Unicode's simple folding, and reports whether
// that is another one than text's. Bytes that are no UTF-8 stay.
func appendFolded(dst, text []byte) (folded []byte, changed bool) {
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
				changed = true
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if f := foldRune(r); f != r {
			dst = utf8.AppendRune(dst, f)
			changed = true
		} else {
			dst = append(dst, text[i:i+size]...)
		}
		i += size
	}
	return dst, changed
}

// foldRune is the smallest of the characters that differ from r only in case, but
// for ASCII in its lower case: the Kelvin sign is a k, the long s an s.
func foldRune(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}

// Package mountinfo reads what the kernel writes about mounts (proc(5)).
package mountinfo

import (
	"strconv"
	"strings"
)

// Unescape resolves \040 and the like, which the kernel writes for blanks, line feeds
// and backslashes. What is no such sequence stays as it is.
func Unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

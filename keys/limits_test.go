package keys

import (
	"bytes"
	"strings"
	"testing"
)

// TestFileBounds: a file of keys has bounds, and no line of one beyond them counts.
func TestFileBounds(t *testing.T) {
	line := Host{Key: Public{1}}.String() + "\n"
	for _, tt := range []struct {
		name string
		data string
		ok   bool
	}{
		{"as many lines as there may be", strings.Repeat(line, maxLines), true},
		{"one more", strings.Repeat(line, maxLines+1), false},
		{"a line that is too long", strings.TrimSuffix(line, "\n") + " " + strings.Repeat("a", maxLine) + "\n", false},
		{"too many bytes", line + strings.Repeat("#\n", MaxFile/2), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hosts, err := ParseHosts([]byte(tt.data))
			if (err == nil) != tt.ok || err != nil && hosts != nil {
				t.Errorf("%d keys, %v", len(hosts), err)
			}
			guests, err := ParseGuests(bytes.ReplaceAll([]byte(tt.data), []byte(keyType), []byte("name "+keyType)))
			if (err == nil) != tt.ok || err != nil && guests != nil {
				t.Errorf("%d guests, %v", len(guests), err)
			}
		})
	}
}

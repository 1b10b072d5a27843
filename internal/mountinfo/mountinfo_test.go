package mountinfo

import "testing"

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"/srv/data": "/srv/data", `/a\040b`: "/a b", `/a\134b`: `/a\b`, `\012x`: "\nx",
		`/a\9b`: `/a\9b`, `/a\04`: `/a\04`, `/a\`: `/a\`, "": "",
	} {
		if got := Unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

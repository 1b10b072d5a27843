package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseOperands(t *testing.T) {
	to := func(guest, dst string, sources ...string) *operands {
		return &operands{to: guest, dst: dst, sources: sources}
	}
	from := func(guest, dst string, sources ...string) *operands {
		return &operands{from: guest, dst: dst, sources: sources}
	}
	tests := map[string]struct {
		args []string
		want *operands
		err  string
	}{
		"to":             {args: []string{"a", "3:/b"}, want: to("3", "/b", "a")},
		"from":           {args: []string{"web:/a", "b"}, want: from("web", "b", "/a")},
		"home":           {args: []string{"a", "web:~"}, want: to("web", ".", "a")},
		"below home":     {args: []string{"web:~/a", "b"}, want: from("web", "b", "a")},
		"relative":       {args: []string{"a", "web:./b"}, want: to("web", "./b", "a")},
		"contents":       {args: []string{"web:/a/.", "."}, want: from("web", ".", "/a/.")},
		"several":        {args: []string{"a", "b/", "web:/c/"}, want: to("web", "/c/", "a", "b/")},
		"several from":   {args: []string{"web:/a", "web:/b", "c"}, want: from("web", "c", "/a", "/b")},
		"guests":         {args: []string{"web:/a", "4:/b"}, want: &operands{from: "web", to: "4", sources: []string{"/a"}, dst: "/b"}},
		"one guest":      {args: []string{"web:/a", "web:/b"}, want: &operands{from: "web", to: "web", sources: []string{"/a"}, dst: "/b"}},
		"archive in":     {args: []string{"-", "web:/a"}, want: &operands{to: "web", sources: []string{"-"}, dst: "/a", fromTar: true}},
		"archive out":    {args: []string{"web:/a", "web:/b", "-"}, want: &operands{from: "web", sources: []string{"/a", "/b"}, dst: "-", toTar: true}},
		"dash in a name": {args: []string{"./-", "web:/a"}, want: to("web", "/a", "./-")},
		"vsock":          {args: []string{"a", "vsock:3:1000:/b"}, want: to("vsock:3:1000", "/b", "a")},
		"first colon":    {args: []string{"a", "web:/b:/c"}, want: to("web", "/b:/c", "a")},
		"unix":           {args: []string{"a", "unix:/run/x.sock:/b"}, want: to("unix:/run/x.sock", "/b", "a")},
		"unix with :/":   {args: []string{"a", "unix:/run/odd:/x.sock:/b"}, want: to("unix:/run/odd:/x.sock", "/b", "a")},
		"mux":            {args: []string{"a", "vsock-mux:/run/fc.sock:1000:/b"}, want: to("vsock-mux:/run/fc.sock:1000", "/b", "a")},
		"mux, home":      {args: []string{"a", "vsock-mux:/run/fc.sock:1000:~/b"}, want: to("vsock-mux:/run/fc.sock:1000", "b", "a")},
		"local colon":    {args: []string{"./a:/b", "web:/c"}, want: to("web", "/c", "./a:/b")},
		"local, deeper":  {args: []string{"d/a:b", "web:/c"}, want: to("web", "/c", "d/a:b")},
		"home at once":   {args: []string{"a", "web:"}, want: to("web", ".", "a")},
		"bare":           {args: []string{"web:d/", "b"}, want: from("web", "b", "d/")},
		"unix, home":     {args: []string{"a", "unix:/run/x.sock:"}, want: to("unix:/run/x.sock", ".", "a")},
		"vsock, home":    {args: []string{"a", "vsock:3:"}, want: to("vsock:3", ".", "a")},
		"two bare":       {args: []string{"web:a", "4:b"}, want: &operands{from: "web", to: "4", sources: []string{"a"}, dst: "b"}},

		"local only":        {args: []string{"a", "b"}, err: "neither side"},
		"an address alone":  {args: []string{"a", "unix:/run/x.sock"}, err: "neither side"},
		"archive to local":  {args: []string{"-", "b"}, err: "neither side"},
		"archive of local":  {args: []string{"a", "-"}, err: "neither side"},
		"archive and files": {args: []string{"a", "-", "web:/b"}, err: "only source"},
		"two guests":        {args: []string{"web:/a", "4:/b", "c"}, err: "several guests"},
		"mixed":             {args: []string{"web:/a", "b", "4:/c"}, err: "some of the sources"},
		"mixed, first":      {args: []string{"a", "web:/b", "4:/c"}, err: "some of the sources"},
		"empty":             {args: []string{"", "web:/b"}, err: "empty"},
		"empty destination": {args: []string{"web:/b", ""}, err: "empty"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseOperands(tt.args)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%+v, %v, want an error with %q", got, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(operands{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

package policy

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestCheck: what no service has use for is refused before a rule looks at it, and
// what is as long as can be is not.
func TestCheck(t *testing.T) {
	upload := func(dir, names, length int) Call {
		o := &guestv1.UploadOpen{Destination: bytes.Repeat([]byte("d"), dir)}
		for range names {
			o.Names = append(o.Names, bytes.Repeat([]byte("n"), length))
		}
		return CallOf(guestv1.FileService_Upload_FullMethodName, &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: o}})
	}
	long := strings.Repeat("x", maxText+1)
	for name, c := range map[string]Call{
		"a path":              {Reads: []string{strings.Repeat("/", MaxPath+1)}},
		"paths":               {Writes: make([]string, 65_538)}, // a directory, and all that a message may name in it
		"bytes of paths":      {Reads: make([]string, 10), Writes: strings.Split(strings.Repeat(strings.Repeat("p", MaxPath)+"\n", 2049), "\n")},
		"a destination":       upload(4<<20, 1000, 1),
		"names in one":        upload(4000, 60_000, 1),
		"arguments":           {Args: make([]string, maxArgs+1)},
		"variables":           {Env: make([]string, maxArgs+1)},
		"a user":              {User: long},
		"a group":             {Group: long},
		"an address":          {Address: long},
		"a network":           {Network: long},
		"a method":            {Method: long},
		"a session":           {SessionID: long},
		"a name of a session": {SessionName: long},
	} {
		if err := c.check(); err == nil || err.Reason() != "request-too-long" || proto.Size(err.GRPCStatus().Proto()) > 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]Call{
		"nothing":     {},
		"a long path": {Reads: []string{strings.Repeat("/", MaxPath)}},
		"paths":       {Reads: make([]string, 65_537)},
		"arguments":   {Args: make([]string, maxArgs)},
		"an upload":   upload(40, 1<<16, 20),
	} {
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusalIsCheap: a refusal takes memory as its request does, and says no more
// than people read, however much the request has of everything.
func TestRefusalIsCheap(t *testing.T) {
	p, err := Parse([]byte("[roles.r]\nkeys=['*']\n[[roles.r.allow]]\nargs=[['ls','...']]\n[[roles.r.allow]]\nread=['/x']\nwrite=['/y']\n[[roles.r.allow]]\ndial=['tcp:*:80']\n[[roles.r.deny]]\nwrite=['/z']\n"))
	if err != nil {
		t.Fatal(err)
	}
	who := Caller{Fingerprint: "SHA256:x", Name: "k"}
	resolved := 0
	w := World{Resolve: func(p string) (string, error) { resolved++; return p, nil }}
	word := func(i int) []byte { return fmt.Appendf(nil, "/z\x00%d", i) }
	var words, env [][]byte
	open := &guestv1.DownloadOpen{}
	for i := range 60_000 {
		words, env = append(words, word(i)), append(env, fmt.Appendf(nil, "V%d=%d", i, i))
		open.Sources = append(open.Sources, &guestv1.Source{Path: word(i)})
	}
	for method, req := range map[string]proto.Message{
		guestv1.ProcessService_Start_FullMethodName: &guestv1.StartRequest{Spec: &guestv1.SessionSpec{Args: append([][]byte{[]byte("rm")}, words...), Env: env}},
		guestv1.ProcessService_Exec_FullMethodName:  &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("rm")}, Env: env}}}},
		guestv1.FileService_Download_FullMethodName: &guestv1.DownloadRequest{Message: &guestv1.DownloadRequest_Open{Open: open}},
		guestv1.FileService_Upload_FullMethodName:   &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{Destination: []byte("/q"), Names: words}}},
		guestv1.FileService_Stat_FullMethodName:     &guestv1.StatRequest{Path: bytes.Repeat([]byte("/a"), 2<<20)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c := CallOf(method, req)
		resolved = 0
		var text string
		if err := c.Check(); err != nil {
			text = err.Error()
		} else {
			d := p.Decide(who, c, w)
			if d.Allowed {
				t.Errorf("%s is allowed", method)
			}
			text = d.Text + d.Remedy
		}
		runtime.ReadMemStats(&after)
		size := proto.Size(req)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(48*size)+1<<16 {
			t.Errorf("%s: a request of %d bytes takes %d", method, size, n)
		}
		if resolved > 2*60_002 {
			t.Errorf("%s: %d paths are resolved", method, resolved)
		}
		if len(text) > 4096 {
			t.Errorf("%s: the refusal has %d bytes", method, len(text))
		}
	}
}

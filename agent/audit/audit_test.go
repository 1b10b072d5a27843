package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRedact(t *testing.T) {
	tests := []struct{ in, want []string }{
		{nil, nil},
		{[]string{"ls", "-l", "/tmp"}, []string{"ls", "-l", "/tmp"}},
		{[]string{"mysql", "--password=x y", "--user=bob"}, []string{"mysql", "--password=[redacted]", "--user=bob"}},
		{[]string{"login", "--token", "abc", "next"}, []string{"login", "--token", "[redacted]", "next"}},
		{[]string{"login", "--token", "--verbose", "next"}, []string{"login", "--token", "--verbose", "next"}},
		{[]string{"mysql", "-p", "abc"}, []string{"mysql", "-p", "[redacted]"}},
		{[]string{"env", "DB_PASSWORD=x", "HOME=/root"}, []string{"env", "DB_PASSWORD=[redacted]", "HOME=/root"}},
		{[]string{"env", "AWS_SECRET_ACCESS_KEY=x", "MY_API_KEY=y"}, []string{"env", "AWS_SECRET_ACCESS_KEY=[redacted]", "MY_API_KEY=[redacted]"}},
		{[]string{"git", "clone", "https://bob:hunter2@example.org/x"}, []string{"git", "clone", "https://bob:[redacted]@example.org/x"}},
		{[]string{"curl", "-H", "Authorization: Bearer abc.def.ghi"}, []string{"curl", "-H", "Authorization: [redacted]"}},
		{[]string{"sh", "-c", "cd /; PGPASSWORD=x psql -c 'select 1'"}, []string{"sh", "-c", "cd /; PGPASSWORD=[redacted] psql -c 'select 1'"}},
		{[]string{"sh", "-c", "login --password 'a' --user b"}, []string{"sh", "-c", "login --password [redacted] --user b"}},
		{[]string{"sh", "-c", "TOKEN=x; rm -rf /srv"}, []string{"sh", "-c", "TOKEN=[redacted]; rm -rf /srv"}},
		{[]string{"bash", "-lc", `TOKEN="a \"b" DB_PASSWORD='c d'e\ f cmd`}, []string{"bash", "-lc", "TOKEN=[redacted] DB_PASSWORD=[redacted] cmd"}},
		{[]string{"sh", "-ec", "TOKEN=x;cmd&&PASSWD=y|cat"}, []string{"sh", "-ec", "TOKEN=[redacted];cmd&&PASSWD=[redacted]|cat"}},
		{[]string{"sh", "-c", `TOKEN="cut off here`}, []string{"sh", "-c", "TOKEN=[redacted]"}},
		{[]string{"env", "DB_PASSWORD=x y"}, []string{"env", "DB_PASSWORD=[redacted]"}},
		{[]string{"--password"}, []string{"--password"}},
	}
	for _, tt := range tests {
		in := fmt.Sprint(tt.in)
		if d := cmp.Diff(tt.want, Redact(tt.in)); d != "" {
			t.Errorf("%q: -want +got\n%s", tt.in, d)
		}
		if fmt.Sprint(tt.in) != in {
			t.Errorf("%v was changed", in)
		}
	}
}

func TestRecord(t *testing.T) {
	var out bytes.Buffer
	l, err := New(Config{Writer: &out})
	if err != nil {
		t.Fatal(err)
	}
	long := make([]string, 1000)
	long[0] = "a\x1b[31m\xff\n" + strings.Repeat("x", 10000)
	l.Write(Record{Method: "/m", Args: long, Code: "OK"})
	if strings.Count(out.String(), "\n") != 1 || out.Len() > 4096 || bytes.ContainsAny(out.Bytes(), "\x1b\xff") {
		t.Errorf("record: %q", out.String())
	}
	var back Record
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Args) != bounds[0].words+1 {
		t.Errorf("%v, %d arguments", err, len(back.Args))
	}
	var none *Log
	none.Write(Record{})
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := New(Config{Path: path, MaxBytes: 2000, Keep: 2, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				l.Write(Record{Method: "/guest.v1.ProcessService/Exec", Code: "OK"})
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	names, _ := filepath.Glob(path + "*")
	if len(names) != 3 {
		t.Errorf("files: %v", names)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 || len(data) > 2000 {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		for line := range strings.Lines(string(data)) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s: %q", name, line)
			}
		}
		if fi, _ := os.Stat(name); fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", name, fi.Mode())
		}
	}
}

// TestLost: a log that cannot be written says so, and goes on when it can.
func TestLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	os.Mkdir(dir, 0o700)
	var log bytes.Buffer
	l, err := New(Config{Path: filepath.Join(dir, "a"), MaxBytes: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Write(Record{Method: "/1"})
	os.RemoveAll(dir)
	l.Write(Record{Method: "/2"})
	l.Write(Record{Method: "/3"})
	if n := strings.Count(log.String(), "records are lost"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	os.Mkdir(dir, 0o700)
	l.Write(Record{Method: "/4"})
	data, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil || !strings.Contains(string(data), "/4") || !strings.Contains(log.String(), "lost=2") {
		t.Errorf("%q, %v; log %s", data, err, log.String())
	}
	if _, err := New(Config{Path: filepath.Join(dir, "no", "a")}); err == nil {
		t.Error("a log that cannot be opened was")
	}
}

// TestLongestRecord: no request makes a line of more than 64 KiB, nor one that shows
// a part of a secret; what is looked at does not grow with the request.
func TestLongestRecord(t *testing.T) {
	evil := strings.Repeat("\x01\xff<", 4<<20)
	many := func(n int, word string) []string { return slices.Repeat([]string{word}, n) }
	records := map[string]Record{
		"every text":     {Key: evil, Name: evil, Rule: evil, Policy: evil, Method: evil, User: evil, Address: evil, Session: evil, SessionName: evil, Reason: evil, Call: evil},
		"lists":          {Args: many(200_000, evil), Env: many(200_000, evil), Paths: many(200_000, evil)},
		"all of it":      {Args: many(100, evil), Env: many(100, evil), Paths: many(100, evil), Key: evil, Name: evil, Method: evil, User: evil, Address: evil},
		"a cut password": {Args: []string{"sh", "-c", "TOKEN=" + strings.Repeat("s", 900) + "; curl https://u:" + strings.Repeat("hunter2", 1000) + "@h"}},
	}
	for name, r := range records {
		allocated := testing.AllocsPerRun(1, func() {
			line, err := r.line()
			if err != nil || len(line) > MaxLine || line[len(line)-1] != '\n' || !json.Valid(line) {
				t.Errorf("%s: %d bytes, %v", name, len(line), err)
			}
			if strings.Contains(string(line), "hunter2") {
				t.Errorf("%s: it shows a part of a password: %s", name, line)
			}
		})
		if allocated > 10_000 {
			t.Errorf("%s: %v allocations", name, allocated)
		}
	}
}

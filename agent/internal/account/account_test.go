package account

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testFiles(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	for name, text := range map[string]string{
		f.Passwd: "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/ash\n7:x:1007:107::/home/seven:\nbroken line\nbad:x:no:1::/:\n",
		f.Group:  "root:x:0:\nusers:x:100:\nwheel:x:10:root,ann\n8:x:108:ann\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestFind(t *testing.T) {
	tests := map[string]struct {
		user, group string
		want        Account
		unknown     string
	}{
		"name":           {user: "ann", want: Account{Name: "ann", UID: 1000, GID: 100, Groups: []uint32{100, 10, 108}, Home: "/home/ann", Shell: "/bin/ash"}},
		"number":         {user: "1000", want: Account{Name: "ann", UID: 1000, GID: 100, Groups: []uint32{100, 10, 108}, Home: "/home/ann", Shell: "/bin/ash"}},
		"name of digits": {user: "7", want: Account{Name: "7", UID: 1007, GID: 107, Groups: []uint32{107}, Home: "/home/seven", Shell: "/bin/sh"}},
		"no name":        {user: "4242", want: Account{UID: 4242, GID: 4242, Groups: []uint32{4242}, Home: "/", Shell: "/bin/sh"}},
		"group":          {user: "ann", group: "wheel", want: Account{Name: "ann", UID: 1000, GID: 10, Groups: []uint32{10, 108}, Home: "/home/ann", Shell: "/bin/ash"}},
		"group's number": {user: "ann", group: "55", want: Account{Name: "ann", UID: 1000, GID: 55, Groups: []uint32{55, 10, 108}, Home: "/home/ann", Shell: "/bin/ash"}},
		"unknown":        {user: "bob", unknown: "user"},
		"broken":         {user: "bad", unknown: "user"},
		"minus one":      {user: "4294967295", unknown: "user"},
		"unknown group":  {user: "ann", group: "gone", unknown: "group"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := testFiles(t).Find(tt.user, tt.group)
			if tt.unknown != "" {
				if e, ok := errors.AsType[*UnknownError](err); !ok || e.Kind != tt.unknown {
					t.Fatalf("got %v, want an unknown %s", err, tt.unknown)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOwn(t *testing.T) {
	got, err := testFiles(t).Find("", "")
	if err != nil || got.UID != uint32(os.Getuid()) || got.GID != uint32(os.Getgid()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestNames(t *testing.T) {
	f := testFiles(t)
	if diff := cmp.Diff(map[uint32]string{0: "root", 1000: "ann", 1007: "7"}, f.UserNames()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[uint32]string{0: "root", 100: "users", 10: "wheel", 108: "8"}, f.GroupNames()); diff != "" {
		t.Error(diff)
	}
}

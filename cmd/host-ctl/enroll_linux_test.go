package main

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestEnrollThroughSudo: the key and the pinned guest are the user's who called sudo.
func TestEnrollThroughSudo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("acts as another user: needs root")
	}
	other, err := user.LookupId("65534")
	if err != nil {
		t.Skip("there is no user 65534: ", err)
	}
	t.Setenv("SUDO_UID", "0")
	if u := sudoUser(); u != nil {
		t.Errorf("root through sudo is %v", u)
	}
	t.Setenv("SUDO_UID", "65534")
	if u := sudoUser(); u == nil || u.HomeDir != other.HomeDir {
		t.Errorf("got %v, want %v", u, other)
	}

	// The home of a user that there is everywhere is nowhere: another stands for it.
	home, err := os.MkdirTemp("", "home")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	if err := os.Chown(home, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	addr := tempAgent(t)
	dir := filepath.Join(home, "host-ctl")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte("[guests.web]\ntarget = \""+addr+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"enroll", "web"}, {"info", "web"}, {"enroll", "--replace", "web"}, {"info", "web"}} {
		cmd := hostCtlCommand(t.Context(), args...)
		cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	for _, name := range []string{"id_ed25519", "id_ed25519.pub", "known_guests"} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if st := fi.Sys().(*syscall.Stat_t); st.Uid != 65534 || st.Gid != 65534 {
			t.Errorf("%s is of %d:%d", name, st.Uid, st.Gid)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "id_ed25519.pub"))
	if err != nil || !strings.Contains(string(data), " "+other.Username+"@") {
		t.Errorf("the key is called %q, %v", data, err)
	}
}

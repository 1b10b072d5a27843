package archive

import (
	"os"
	"path/filepath"
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestPlantedPartialFile has somebody who may write to the destination plant the
// unfinished file of a transfer: as a second name of another file, as a link, or with
// another owner. It is neither read nor written.
func TestPlantedPartialFile(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, victim, temp string) error{
		"hard link":     func(_ *testing.T, victim, temp string) error { return os.Link(victim, temp) },
		"symbolic link": func(_ *testing.T, victim, temp string) error { return os.Symlink(victim, temp) },
		"of another user": func(t *testing.T, _, temp string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			if err := os.WriteFile(temp, []byte("vict"), 0o666); err != nil {
				return err
			}
			return os.Chown(temp, 12345, 12345)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			victim, dst := filepath.Join(dir, "victim"), filepath.Join(dir, "dst")
			must(t, os.WriteFile(victim, []byte("vict"), 0o600), os.Mkdir(dst, 0o700))
			must(t, plant(t, victim, filepath.Join(dst, tempName([16]byte{}, "f"))))
			tr := newTry(t, &ReceiveConfig{Destination: dst, Names: []string{""}, Options: noSync(), Resume: true})
			must(t, tr.h.offer(&guestv1.Entry{Number: 1, Path: []byte("f"), Mode: modeRegular | 0o644, Size: 8}))
			d := tr.answer(t, func(m *guestv1.UploadResponse) bool { return m.GetDecision() != nil }).GetDecision()
			if len(d.Wanted) != 1 || d.Wanted[0].Offset != 0 || d.Wanted[0].Sha256 != nil {
				t.Errorf("wanted %v, want all of the file, and no word of what is in the planted one", d.Wanted)
			}
			tr.cut()
			tr.wait(t)
			if data, err := os.ReadFile(victim); err != nil || string(data) != "vict" {
				t.Errorf("the victim is %q, %v", data, err)
			}
		})
	}
}

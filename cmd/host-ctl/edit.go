package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// maxEdited bounds a file that is edited.
const maxEdited = 8 << 20

func (c *cli) editCommand() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "edit [flags] GUEST PATH",
		Short: "Edit a file of a guest with the editor of this machine",
		Long: `Edit a file of a guest with $VISUAL, $EDITOR or vi. It is written back if the editor
succeeds and has changed it, all at once, and keeps its owner, permissions and
attributes. If it has changed in the guest meanwhile, it is not written, and what was
edited stays here.`,
		Example: `  host-ctl edit web /etc/hosts
  EDITOR=nano host-ctl edit web:/etc/fstab`,
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, 1)
			if err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				return c.edit(ctx, filesAs(g, user), guestPath(paths[0]))
			})
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}

// edit has a file edited. One that is missing is made if the editor writes something.
func (c *cli) edit(ctx context.Context, files *guest.Files, name string) error {
	old, err := files.ReadFile(ctx, name, maxEdited)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	dir, err := os.MkdirTemp("", "host-ctl-edit-") // readable by this user alone
	if err != nil {
		return err
	}
	// The name tells the editor what kind of file it is; it is the command line's.
	local := filepath.Join(dir, path.Base(name))
	if err := os.WriteFile(local, old, 0o600); err != nil {
		os.RemoveAll(dir)
		return err
	}
	keep := func(err error) error {
		return fmt.Errorf("%w; what was edited is in %s", err, local)
	}
	if err := c.runEditor(ctx, local); err != nil {
		if now, readErr := os.ReadFile(local); readErr == nil && !bytes.Equal(now, old) {
			return keep(err)
		}
		os.RemoveAll(dir)
		return err
	}
	edited, err := os.ReadFile(local)
	if err != nil {
		return keep(err)
	}
	if bytes.Equal(edited, old) {
		return os.RemoveAll(dir)
	}
	sum, _, err := files.Hash(ctx, name, 0, 0)
	switch {
	case missing && errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return keep(err)
	case missing || sum != sha256.Sum256(old):
		return keep(fmt.Errorf("%s has changed in the guest meanwhile, and was not written", name))
	}
	if err := files.WriteFile(ctx, name, edited, 0o644); err != nil {
		return keep(err)
	}
	return os.RemoveAll(dir)
}

// runEditor runs the user's editor, whose name may have arguments.
func (c *cli) runEditor(ctx context.Context, file string) error {
	words := []string{"vi"}
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if fields := strings.Fields(os.Getenv(name)); len(fields) > 0 {
			words = fields
			break
		}
	}
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], file)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, c.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the editor %s: %w", words[0], err)
	}
	return nil
}

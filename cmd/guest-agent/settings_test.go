//go:build linux

package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/internal/system"
)

// view is what can be compared of settings.
type view struct {
	Listen, AllowCID string
	Peer             access.Mode
	Init, Version    bool
	Grace            time.Duration
	LogLevel         slog.Level
	Unknown          []string
}

func viewOf(s *settings) view {
	return view{s.listen.String(), s.allowCID.String(), s.peer, s.init, s.version, s.grace, s.logLevel, s.unknown}
}

func TestParseSettings(t *testing.T) {
	def := view{Peer: access.ModeAuto, Grace: 5 * time.Second}
	with := func(change func(*view)) view {
		v := def
		change(&v)
		return v
	}
	tests := []struct {
		name   string
		kernel string
		env    []string
		args   []string
		want   view
	}{
		{"nothing", "quiet console=ttyS0", []string{"PATH=/bin", "GUEST=1"}, nil, def},
		{"flags", "", nil, []string{"--listen=vsock:any:2000", "-listen", "unix:/a,unix:/b", "--peer=host", "--allow-cid=1,7", "--allow-cid", "9", "--grace=1m", "--log-level=debug", "--init", "--version"},
			view{"vsock:any:2000,unix:/a,unix:/b", "1,7,9", access.ModeHost, true, true, time.Minute, slog.LevelDebug, nil}},
		{"environment", "", []string{"GUEST_AGENT_LISTEN=unix:/a,unix:/b", "GUEST_AGENT_PEER=host-root", "GUEST_AGENT_ALLOW_CID=3", "GUEST_AGENT_GRACE=0s", "GUEST_AGENT_LOG_LEVEL=warn", "GUEST_AGENT_INIT=1"}, nil,
			view{"unix:/a,unix:/b", "3", access.ModeHostRoot, true, false, 0, slog.LevelWarn, nil}},
		{"kernel", `guest-agent.listen=unix:/a guest_agent.listen="unix:/b c" guest-agent.peer=host guest-agent.allow_cid=3 guest-agent.grace=2s guest-agent.log-level=ERROR guest-agent.init`, nil, nil,
			view{"unix:/a,unix:/b c", "3", access.ModeHost, true, false, 2 * time.Second, slog.LevelError, nil}},
		{"the environment goes before the kernel", "guest-agent.peer=host guest-agent.listen=unix:/k guest-agent.allow-cid=3", []string{"GUEST_AGENT_PEER=host-root", "GUEST_AGENT_LISTEN=unix:/e"}, nil,
			with(func(v *view) { v.Peer, v.Listen, v.AllowCID = access.ModeHostRoot, "unix:/e", "3" })},
		{"flags go before both", "guest-agent.peer=host guest-agent.listen=unix:/k", []string{"GUEST_AGENT_PEER=host", "GUEST_AGENT_LISTEN=unix:/e"}, []string{"--peer=auto", "--listen=unix:/f", "--listen=unix:/g"},
			with(func(v *view) { v.Listen = "unix:/f,unix:/g" })},
		{"an empty variable is none", "", []string{"GUEST_AGENT_LISTEN=", "GUEST_AGENT_PEER="}, nil, def},
		{"short address", "", nil, []string{"--listen=vsock:any"}, with(func(v *view) { v.Listen = "vsock:any:1000" })},
		{"CID by name", "", nil, []string{"--allow-cid=local"}, with(func(v *view) { v.AllowCID = "1" })},
		{"what a newer agent knows", "guest-agent.dance=1 guest-agent.version other.peer=x", []string{"GUEST_AGENT_SING=1", "GUEST_AGENT_VERSION=1"}, nil,
			with(func(v *view) {
				v.Unknown = []string{"guest-agent.dance", "guest-agent.version", "GUEST_AGENT_SING", "GUEST_AGENT_VERSION"}
			})},
		{"faces", "guest-agent.listen=vsock:any:1001?face=control", nil, []string{"--listen=vsock:any?face=user,unix:/a?face=control,unix:/b?face=x?face=user,unix:/c"},
			with(func(v *view) {
				v.Listen = "vsock:any:1000?face=user,unix:/a?face=control,unix:/b?face=x?face=user,unix:/c"
			})},
		{"switched off by a flag", "guest-agent.init", nil, []string{"--init=false"}, def},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := parseSettings(tt.args, tt.env, system.ParseKernelArgs(tt.kernel), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, viewOf(s)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestWrongSettings(t *testing.T) {
	tests := []struct {
		kernel string
		env    []string
		args   []string
		want   []string // parts of the text
	}{
		{args: []string{"--peer=everybody"}, want: []string{"everybody", "host-root, host or auto"}},
		{args: []string{"--peer=embedded"}, want: []string{"embedded"}},
		{args: []string{"--listen=vsock://3:1000"}, want: []string{"vsock://3:1000"}},
		{args: []string{"--listen=vsock-mux:/x:1000"}, want: []string{"vsock-mux"}},
		{args: []string{"--listen="}, want: []string{"scheme"}},
		{args: []string{"--listen=unix:/a,"}, want: []string{"scheme"}},
		{args: []string{"--listen=unix:/a?face=both"}, want: []string{"both", "user or control"}},
		{args: []string{"--listen=unix:/a?face="}, want: []string{"user or control"}},
		{args: []string{"--allow-cid=0"}, want: []string{"CID"}},
		{args: []string{"--allow-cid=4294967295"}, want: []string{"CID"}},
		{args: []string{"--allow-cid=4294967296"}, want: []string{"CID"}},
		{args: []string{"--allow-cid=host"}, want: []string{"CID"}},
		{args: []string{"--grace=-1s"}, want: []string{"duration"}},
		{args: []string{"--grace=5"}, want: []string{"duration"}},
		{args: []string{"--log-level=loud"}, want: []string{"debug, info, warn or error"}},
		{args: []string{"--dance"}, want: []string{"dance"}},
		{args: []string{"serve"}, want: []string{"serve", "flags only"}},
		{env: []string{"GUEST_AGENT_PEER=x"}, want: []string{"GUEST_AGENT_PEER=x"}},
		{env: []string{"GUEST_AGENT_INIT=maybe"}, want: []string{"GUEST_AGENT_INIT=maybe"}},
		{kernel: "guest-agent.peer=x guest-agent.grace=y", want: []string{"guest-agent.peer=x", "guest-agent.grace=y"}},
		{kernel: "guest-agent.listen", want: []string{"guest-agent.listen"}},
	}
	for _, tt := range tests {
		t.Run(tt.want[0], func(t *testing.T) {
			// What is wrong is left out, and the rest holds.
			args := append([]string{"--grace=7s"}, tt.args...)
			s, err := parseSettings(args, tt.env, system.ParseKernelArgs(tt.kernel), io.Discard)
			if err == nil {
				t.Fatalf("taken as %+v", viewOf(s))
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("text %q does not say %q", err, want)
				}
			}
			want := view{Peer: access.ModeAuto, Grace: 7 * time.Second}
			if diff := cmp.Diff(want, viewOf(s)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestHelp: each flag is explained, with the other ways to give it.
func TestHelp(t *testing.T) {
	var out strings.Builder
	if _, err := parseSettings([]string{"-h"}, nil, nil, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"-listen", "-peer", "-allow-cid", "-init", "-grace", "-log-level", "-version", "GUEST_AGENT_", "guest-agent.", "vsock:any:1000"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help does not have %s:\n%s", want, &out)
		}
	}
}

func TestFlagsOnly(t *testing.T) {
	args := []string{"splash", "--listen=unix:/a", "--", "single", "-init"}
	if diff := cmp.Diff([]string{"--listen=unix:/a", "-init"}, flagsOnly(args)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

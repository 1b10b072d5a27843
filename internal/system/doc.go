// Package system reads the facts about the guest that AgentService.Info tells.
//
// Linux only. A fact that cannot be had is left empty: a guest without
// /etc/os-release, or even without /proc, is a guest all the same.
package system

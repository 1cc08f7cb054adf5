package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// machine is what the numbers were measured on.
type machine struct {
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	Kernel    string `json:"kernel"`
	// Guest is the kind of machine: kvm, uml (User-Mode Linux, where a system call costs
	// four times as much as on the bare machine) or tcg (emulated by qemu, where encryption
	// costs ten times as much). "" outside tests/guest.
	Guest string `json:"guest"`
}

type versions struct {
	Layervault json.RawMessage `json:"layervault"`
	Base       string          `json:"base,omitempty"` // the earlier commit that it is compared with
	Engine     string          `json:"engine"`
	Fio        string          `json:"fio"`
}

func describe(ctx context.Context, engine func(context.Context) (string, error)) (m machine, v versions, err error) {
	m.CPUs = runtime.NumCPU()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, v, err
	}
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			m.CPU = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
			break
		}
	}
	m.Guest = os.Getenv("GUEST_KIND")
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, v, err
	}
	if f := strings.Fields(string(mem)); len(f) > 1 {
		kib, err := strconv.Atoi(f[1])
		if err != nil {
			return m, v, fmt.Errorf("/proc/meminfo: %w", err)
		}
		m.MemoryMiB = kib / 1024
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, v, err
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	if v.Engine, err = engine(ctx); err != nil {
		return m, v, err
	}
	raw, err := exec.CommandContext(ctx, "layervault", "version", "--json").Output()
	if err != nil {
		return m, v, fmt.Errorf("layervault version: %w", err)
	}
	v.Layervault = json.RawMessage(raw)
	fio, err := exec.CommandContext(ctx, "fio", "--version").Output()
	if err != nil {
		return m, v, fmt.Errorf("fio --version: %w", err)
	}
	v.Fio = strings.TrimSpace(string(fio))
	return m, v, nil
}

package socket_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"layervault/plugin/socket"
)

// In a process of its own, as systemd starts one: the descriptors have fixed numbers.
func TestInherit(t *testing.T) {
	if path := os.Getenv("INHERIT_TEST"); path != "" {
		inherit(t, path)
		return
	}
	dir := t.TempDir()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	// A shell, because the variable names the process that it becomes.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestInherit$' -test.v`, os.Args[0])
	cmd.Env = append(os.Environ(), "INHERIT_TEST="+filepath.Join(dir, "a"), "LISTEN_FDS=2", "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	for _, name := range []string{"a", "b"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		file, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "a")) // before anyone answers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text := make([]byte, 100)
	if n, err := conn.Read(text); err != nil || string(text[:n]) != "hello" {
		t.Errorf("answer %q, %v", text[:n], err)
	}
	if n, err := ready.Read(text); err != nil || string(text[:n]) != "READY=1" {
		t.Errorf("systemd was told %q, %v", text[:n], err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
		t.Errorf("the socket is systemd's: %v", err)
	}
}

func inherit(t *testing.T, path string) {
	in, err := socket.Inherit(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	l, err := in.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "hello")
	own, err := in.Listen(t.Context(), path+"-own")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Close() error }{conn, l, own, in, in} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := socket.Ready(t.Context(), os.Getenv); err != nil {
		t.Error(err)
	}
}

func TestInheritNothing(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"no systemd":      {},
		"another process": {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
	} {
		in, err := socket.Inherit(func(name string) string { return env[name] })
		if err != nil || in.Close() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := map[string]string{"LISTEN_PID": fmt.Sprint(os.Getpid()), "LISTEN_FDS": "x", "NOTIFY_SOCKET": "/nowhere/at/all"}
	env := func(name string) string { return bad[name] }
	if _, err := socket.Inherit(env); err == nil {
		t.Error("took a number that is none")
	}
	if err := socket.Ready(context.Background(), env); err == nil {
		t.Error("nobody was told")
	}
}

//go:build guest

package dm_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *dm.Control {
	t.Helper()
	c, err := dm.Open()
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLife(t *testing.T) {
	c := open(t)
	const name, uuid = "layervault-test-life", "TEST-life"
	info, err := c.Create(name, uuid)
	must(t, err)
	defer func() { _ = c.Remove(name, true) }()
	if info.Name != name || info.UUID != uuid || info.Active {
		t.Errorf("%+v", info)
	}
	if _, err := c.Create(name, ""); !errors.Is(err, dm.ErrExists) {
		t.Errorf("the same name: %v", err)
	}
	if _, err := c.Create("layervault-test-other", uuid); !errors.Is(err, dm.ErrExists) {
		t.Errorf("the same UUID: %v", err)
	}
	want := []dm.Target{{Start: 0, Length: 8, Type: "zero"}, {Start: 8, Length: 16, Type: "error"}}
	must(t, c.Load(name, false, want...))
	must(t, c.Resume(name))
	got, err := c.Table(name)
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("table %v, want %v", got, want)
	}
	if _, err := c.Status(name); err != nil {
		t.Error(err)
	}
	if deps, err := c.Deps(name); err != nil || len(deps) != 0 {
		t.Errorf("%v, %v", deps, err)
	}
	must(t, c.Suspend(name))
	if info, err = c.InfoByUUID(uuid); err != nil || !info.Suspended || !info.Active || info.TargetCount != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	must(t, c.Resume(name))
	f, err := os.Open(info.Node())
	must(t, err)
	defer func() { _ = f.Close() }()
	if err := c.Remove(name, false); !errors.Is(err, dm.ErrBusy) {
		t.Errorf("in use: %v", err)
	}
	must(t, c.Remove(name, true))
	if info, err = c.Info(name); err != nil || !info.Deferred || info.OpenCount != 1 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestErrors(t *testing.T) {
	c := open(t)
	const name = "layervault-test-errors"
	for what, err := range map[string]error{
		"remove": c.Remove(name, true), "resume": c.Resume(name), "load": c.Load(name, false, dm.Target{Length: 1, Type: "zero"}),
	} {
		if !errors.Is(err, dm.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.Info(name); !errors.Is(err, dm.ErrNotExist) {
		t.Error(err)
	}
	_, err := c.Create(name, "")
	must(t, err)
	defer func() { must(t, c.Remove(name, false)) }()
	if err := c.Load(name, false, dm.Target{Length: 1, Type: "no-such-target"}); !errors.Is(err, dm.ErrTarget) {
		t.Error(err)
	}
	crypt := dm.CryptTable{Cipher: "no-such-cipher", KeySize: 32, Dev: unix.Mkdev(1, 0), Length: 8, SectorSize: 512}
	if err := c.LoadCrypt(name, crypt, "layervault:x", make([]byte, 32)); !errors.Is(err, dm.ErrTarget) {
		t.Error(err)
	}
	if err := c.LoadCrypt(name, crypt, "layervault:x", make([]byte, 16)); err == nil {
		t.Error("a key that is too short was taken")
	}
	if _, err := c.TargetVersion("no-such-target"); !errors.Is(err, dm.ErrTarget) {
		t.Error(err)
	}
	if v, err := c.TargetVersion("crypt"); err != nil || !v.AtLeast(1, 18) {
		t.Errorf("%s, %v", v, err)
	}
}

// More devices than the first buffer has room for.
func TestListGrows(t *testing.T) {
	c := open(t)
	const devices = 200
	long := "layervault-test-list-" + strings.Repeat("x", 90)
	for i := range devices {
		name := fmt.Sprintf("%s%d", long, i)
		_, err := c.Create(name, "")
		must(t, err)
		defer func() { must(t, c.Remove(name, false)) }()
	}
	names, err := c.List()
	must(t, err)
	found := 0
	for _, n := range names {
		if strings.HasPrefix(n.Name, long) {
			found++
		}
	}
	if found != devices {
		t.Errorf("%d devices, want %d", found, devices)
	}
}

// The words that a header could put into a table are refused before the kernel sees them.
// The control: the kernel takes the line, with another device than the one that was meant.
func TestInjectedWords(t *testing.T) {
	c := open(t)
	const name = "layervault-test-injected"
	// Two devices of our own stand for two disks.
	var disks [2]uint64
	for i := range disks {
		disk := fmt.Sprintf("layervault-test-disk%d", i)
		info, err := c.Create(disk, "")
		must(t, err)
		defer func() { must(t, c.Remove(disk, false)) }()
		must(t, c.Load(disk, false, dm.Target{Length: 4096, Type: "zero"}))
		must(t, c.Resume(disk))
		disks[i] = info.Dev
	}
	_, err := c.Create(name, "")
	must(t, err)
	defer func() { must(t, c.Remove(name, false)) }()
	number := func(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }
	evil := "cipher_null-ecb - 0 " + number(disks[1]) + " 8 0"
	must(t, c.Load(name, false, dm.Target{Length: 8, Type: "crypt", Params: evil + " :0:logon:a:b 0 " + number(disks[0]) + " 0"}))
	must(t, c.Resume(name))
	if deps, err := c.Deps(name); err != nil || len(deps) != 1 || deps[0] != disks[1] {
		t.Errorf("control: the device lies on %v, %v", deps, err)
	}
	err = c.LoadCrypt(name, dm.CryptTable{Cipher: evil, KeySize: 32, Dev: disks[0], Length: 8, SectorSize: 512}, "a:b", make([]byte, 32))
	if !errors.Is(err, dm.ErrBadName) {
		t.Errorf("%v, want %v", err, dm.ErrBadName)
	}
	// A table that was loaded and is not wanted any more is dropped.
	must(t, c.Load(name, false, dm.Target{Length: 8, Type: "error"}))
	must(t, c.Clear(name))
	must(t, c.Clear(name))
	must(t, c.Resume(name))
	if table, err := c.Table(name); err != nil || table[0].Type != "crypt" {
		t.Errorf("%+v, %v", table, err)
	}
}

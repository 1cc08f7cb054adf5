package volume

import (
	"fmt"

	"layervault/persist"
)

// judge compares the volumes of all tiers with each other and with the tiers' lists: which
// are listed, contradict their list, are missing or superseded, and which of two volumes with
// one name or UUID is rejected.
//
// It has no key. An attacker may have changed a list, but then nothing of its tier opens
// (Store.authenticate). Therefore a list, or a volume that needs a key, can forbid the use of
// a volume that needs no key, and never the reverse:
//
//   - Generations supersede each other only within one place, and, across places, only where
//     one list has both.
//   - A damaged later generation stays the volume: the generation that it superseded is not
//     used again.
//   - A listed volume wins over an unlisted one; an image wins over a volume without a key of
//     its own.
func judge(all []Volume, layout persist.Layout, lists map[persist.Tier]*list) []Volume {
	j := &judgement{layout: layout, lists: lists, all: all}
	j.compare()
	j.addMissing()
	j.supersede()
	j.supersedeAcross()
	j.clash(func(v *Volume) string { return v.UUID }, "UUID")
	j.clash(func(v *Volume) string { return v.Name }, "name")
	return j.all
}

type judgement struct {
	layout persist.Layout
	lists  map[persist.Tier]*list
	all    []Volume
}

// compare compares each volume with its list.
func (j *judgement) compare() {
	for i := range j.all {
		v := &j.all[i]
		l := j.lists[keyTier(v.Options)]
		if l != nil && l.damage != nil {
			v.damaged(l.damage)
			continue
		}
		e := l.find(v.where(), v.ID())
		if e == nil {
			continue
		}
		v.pending, v.next = e.Pending, e.Next
		if v.Damage == nil && !e.says(v.Record) {
			v.Damage = fmt.Errorf("volume %s: %w: %w: record names %q (%s), list of tier %s has %q (%s)",
				v.ID(), ErrDamaged, ErrForged, v.Name, describe(v.Options), l.Tier, e.Name, describe(e.Options))
		}
		if v.Damage != nil {
			v.Record = e.record() // its right name
		}
		v.Listed = true
	}
}

func (v *Volume) damaged(why error) {
	if v.Damage == nil {
		v.Damage = fmt.Errorf("volume %s: %w", v.ID(), why)
	}
}

// addMissing adds volumes that are listed and not on the disk.
func (j *judgement) addMissing() {
	there := map[string]bool{}
	for i := range j.all {
		there[target(j.all[i].where(), j.all[i].ID())] = true
	}
	for _, tier := range listTiers {
		l := j.lists[tier]
		if l == nil || l.damage != nil {
			continue
		}
		for _, e := range l.Volumes {
			if e.Pending || there[target(where(e.Options), e.id())] || e.Next != "" && there[e.Next] {
				continue
			}
			v := Volume{Record: e.record(), Path: e.path(j.layout), Listed: true, missing: true}
			v.damaged(fmt.Errorf("%w: %w: %s", ErrDamaged, ErrMissing, v.Path))
			j.all = append(j.all, v)
		}
	}
}

// supersede finds the present generation of each UUID at each place.
func (j *judgement) supersede() {
	groups := map[string][]*Volume{}
	for i := range j.all {
		v := &j.all[i]
		key := v.where() + "/" + v.UUID
		groups[key] = append(groups[key], v)
	}
	for _, group := range groups {
		var newest *Volume
		for _, v := range group {
			switch {
			case newest == nil,
				v.Listed && !newest.Listed,
				v.Listed == newest.Listed && v.Generation > newest.Generation:
				newest = v
			}
		}
		for _, v := range group {
			switch {
			case v == newest:
			case v.Generation < newest.Generation:
				v.Superseded = true
				if newest.Name == "" && v.Name != "" {
					// Its record cannot be read; the generation before it has the name.
					newest.Name = v.Name
				}
			default:
				v.damaged(fmt.Errorf("%w: %w, which has generation %d", ErrDamaged, ErrUnlisted, newest.Generation))
			}
		}
	}
}

// supersedeAcross lets a volume that was purged into another tier supersede its former
// generation, if one list has both, or the former's list names the latter.
func (j *judgement) supersedeAcross() {
	there := map[string]bool{}
	latest := map[string]int64{} // listed, by the list and the UUID
	for i := range j.all {
		v := &j.all[i]
		if v.missing {
			continue
		}
		there[target(v.where(), v.ID())] = true
		if v.Listed && !v.Superseded {
			key := string(keyTier(v.Options)) + "/" + v.UUID
			latest[key] = max(latest[key], v.Generation)
		}
	}
	for i := range j.all {
		v := &j.all[i]
		if v.Listed && (v.Generation < latest[string(keyTier(v.Options))+"/"+v.UUID] || v.next != "" && there[v.next]) {
			v.Superseded = true
		}
	}
}

// clash rejects volumes with the name, or the UUID, of a volume with a better claim.
func (j *judgement) clash(of func(v *Volume) string, what string) {
	best := map[string]*Volume{}
	for i := range j.all {
		v := &j.all[i]
		if v.Damage != nil && !v.Listed {
			continue // a damaged, unlisted volume has no claim
		}
		if key := of(v); key != "" && !v.Superseded && (best[key] == nil || v.claim() > best[key].claim()) {
			best[key] = v
		}
	}
	for i := range j.all {
		v := &j.all[i]
		first := best[of(v)]
		if first == nil || first == v || v.Superseded || v.claim() >= first.claim() || v.Name == first.Name && v.ID() == first.ID() && v.where() == first.where() {
			continue
		}
		v.damaged(fmt.Errorf("%w: %w: %s has the same %s as volume %s of %s (%s)",
			ErrDamaged, ErrForged, v.Path, what, first.Name, first.where(), first.ID()))
	}
}

// claim ranks volumes of one name: listed ones first, then those that need a key.
func (v *Volume) claim() int {
	n := 0
	if v.Listed {
		n += 2
	}
	if v.ownKey() {
		n++
	}
	return n
}

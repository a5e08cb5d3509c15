package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"postern/shared/secret"
	"postern/shared/table"
)

// A key's record is the item of its id in the partition of the id's first
// character: no partition is hot, and base62's order is that of all ids.

func itemKey(id string) table.Key { return table.Key{Partition: partition(id[:1]), Sort: id} }

func partition(first string) string { return "key#" + first }

// stored is a record as the table has it: digests, and never a token.
type stored struct {
	Key
	Digest string        `json:"digest"`
	Older  []storedOlder `json:"older,omitempty"`
}

type storedOlder struct {
	Digest    string    `json:"digest"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (r *record) encode() ([]byte, error) {
	s := stored{Key: r.Key, Digest: r.current.Reveal()}
	for _, o := range r.older {
		s.Older = append(s.Older, storedOlder{o.digest.Reveal(), o.end})
	}
	value, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return compact(value)
}

// compact is an object without the members that say nothing: a look-up spends
// much of its time on reading them.
func compact(object []byte) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, err
	}
	maps.DeleteFunc(members, func(_ string, v json.RawMessage) bool { return string(v) == "null" || string(v) == "false" })
	return json.Marshal(members)
}

// What decode refuses. A record that can't be understood is no key with fewer
// bounds than it was given.
var (
	errDigest    = errors.New("it has a digest that is none")
	errOlder     = errors.New("its older tokens don't fit the end that it tells of them")
	errOther     = errors.New("it is another key's")
	errNoAddress = errors.New("it has an empty list of addresses")
)

// decode reads the record of id.
func decode(id string, value []byte, version int64) (*record, error) {
	var s stored
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, fmt.Errorf("the record of key %s: %w", id, err)
	}
	r := &record{Key: s.Key, version: version}
	var ok bool
	r.current, ok = secret.ParseDigest(s.Digest)
	for _, o := range s.Older {
		digest, isDigest := secret.ParseDigest(o.Digest)
		ok = ok && isDigest
		r.older = append(r.older, older{digest, o.ExpiresAt})
	}
	switch {
	case s.ID != id:
		return nil, fmt.Errorf("the record of key %s: %w", id, errOther)
	case !ok:
		return nil, fmt.Errorf("the record of key %s: %w", id, errDigest)
	case len(r.older) > maxOlder, (len(r.older) > 0) != (s.PreviousExpiresAt != nil),
		len(r.older) > 0 && !latest(r.older).Equal(*s.PreviousExpiresAt):
		return nil, fmt.Errorf("the record of key %s: %w", id, errOlder)
	}
	return r, nil
}

// read returns the record of id, or table.ErrNotFound.
func read(ctx context.Context, t table.Table, id string) (*record, error) {
	item, err := t.Get(ctx, itemKey(id))
	if err != nil {
		return nil, err
	}
	return decode(id, item.Value, item.Version)
}

// write stores r over the version that it was read as.
func (r *record) write(ctx context.Context, t table.Table) error {
	value, err := r.encode()
	if err != nil {
		return err
	}
	r.version, err = t.Put(ctx, itemKey(r.ID), value, r.version, time.Time{})
	return err
}

// maxTries is how often a change that takes away is tried.
const maxTries = 20

// writeAnyway is write for a change that only takes away: who stops a key wins
// over whoever changes it at the same time. again makes the change to what
// somebody else has written meanwhile.
func (r *record) writeAnyway(ctx context.Context, t table.Table, again func(*record) error) error {
	for range maxTries {
		if err := r.write(ctx, t); !errors.Is(err, table.ErrConflict) {
			return err
		}
		newer, err := read(ctx, t, r.ID)
		if err != nil {
			return err
		}
		*r = *newer
		if err := again(r); err != nil {
			return err
		}
	}
	return table.ErrConflict
}

// list returns up to n records in the order of their ids, from behind the id
// after; "" is the beginning. Each step asks twice as many partitions at once as
// the one before: a page of many keys comes from one or two of them, and one of
// few from all 62 in a handful of steps.
func list(ctx context.Context, t table.Table, after string, n int) ([]*record, error) {
	first := 0
	if after != "" {
		first = strings.IndexByte(base62, after[0])
	}
	var records []*record
	for width := 1; first < len(base62) && len(records) < n; width *= 2 {
		parts := make([][]*record, min(width, len(base62)-first))
		want := n - len(records)
		err := table.Each(len(parts), func(i int) (err error) {
			parts[i], err = listPartition(ctx, t, base62[first+i:][:1], after, want)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, part := range parts {
			records = append(records, part...)
		}
		first += len(parts)
	}
	return records[:min(n, len(records))], nil
}

// listPartition is list in the partition of first. An after in an earlier
// partition is before all that is in it.
func listPartition(ctx context.Context, t table.Table, first, after string, n int) ([]*record, error) {
	var records []*record
	for len(records) < n {
		limit := min(n-len(records), table.MaxList)
		items, err := t.List(ctx, partition(first), table.Query{After: after, Limit: limit})
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			r, err := decode(item.Sort, item.Value, item.Version)
			if err != nil {
				return nil, err
			}
			records = append(records, r)
			after = item.Sort
		}
		if len(items) < limit {
			break
		}
	}
	return records, nil
}

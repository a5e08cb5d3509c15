package idempotency

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"postern/shared/api"
	"postern/shared/table"
)

// itemKey is where the key of a caller is. The key itself is somebody's text, and
// may be longer than a sort key.
func itemKey(caller, key string) table.Key {
	sum := sha256.Sum256([]byte(key))
	return table.Key{Partition: "replay#" + caller, Sort: hex.EncodeToString(sum[:])}
}

// record is an item: a line of JSON and then the reply. Its zero value is a free
// one. A record is never deleted, so that its version tells a claim from every
// other claim of the key.
type record struct {
	Digest   string    `json:"digest"` // of the request
	Owner    string    `json:"owner"`  // random, so that no two claims are equal (package dynamodb wants that)
	Lease    time.Time `json:"lease"`  // the end of a running one's
	Status   int       `json:"status"` // of the reply; 0: there is none
	Location string    `json:"location,omitempty"`

	reply []byte
}

func (r record) encode() ([]byte, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return append(append(line, '\n'), r.reply...), nil
}

func decode(value []byte) (r record, err error) {
	line, reply, _ := bytes.Cut(value, []byte("\n"))
	if err := json.Unmarshal(line, &r); err != nil {
		return record{}, fmt.Errorf("the record of an idempotency key: %w", err)
	}
	r.reply = reply
	return r, nil
}

// claim is the right to run the request of a key.
type claim struct {
	*Replies
	caller  string
	key     table.Key
	record  record
	version int64
}

// claim takes the key for a request, or returns the reply that is kept for it, or
// the refusal.
func (s *Replies) claim(ctx context.Context, caller, key, digest string) (*claim, *record, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	c := &claim{Replies: s, caller: caller, key: itemKey(caller, key)}
	c.record = record{Digest: digest, Owner: rand.Text(), Lease: s.now().Add(s.lease)}
	err := c.put(ctx, c.record)
	if !errors.Is(err, table.ErrConflict) {
		return c, nil, unavailable(err)
	}
	item, err := s.items.Get(ctx, c.key)
	if errors.Is(err, table.ErrNotFound) {
		return nil, nil, inProgress(retry) // it has expired just now
	}
	if err != nil {
		return nil, nil, unavailable(err)
	}
	held, err := decode(item.Value)
	if err != nil {
		return nil, nil, err
	}
	left := held.Lease.Sub(s.now())
	switch {
	case held.Digest == "": // free
	case held.Digest != digest:
		return nil, nil, &api.Error{Code: api.KeyReused}
	case held.Status != 0:
		return nil, &held, nil
	case left > 0:
		return nil, nil, inProgress(left)
	}
	c.version = item.Version
	err = c.put(ctx, c.record)
	if errors.Is(err, table.ErrConflict) {
		return nil, nil, inProgress(retry) // somebody else has taken it
	}
	return c, nil, unavailable(err)
}

// put writes r over the version that c knows.
func (c *claim) put(ctx context.Context, r record) error {
	value, err := r.encode()
	if err != nil {
		return err
	}
	version, err := c.items.Put(ctx, c.key, value, c.version, c.now().Add(Keep))
	if err == nil {
		c.version = version
	}
	return err
}

// keep keeps the reply.
func (c *claim) keep(ctx context.Context, r reply) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	c.record.Status, c.record.Location, c.record.reply = r.status, r.location, r.body
	if err := c.put(ctx, c.record); err != nil {
		c.lost(ctx, "reply not kept for its Idempotency-Key", err)
	}
}

// free gives the key back. Where that fails, the lease ends by itself.
func (c *claim) free(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	if err := c.put(ctx, record{}); err != nil {
		c.lost(ctx, "Idempotency-Key not freed after a failure", err)
	}
}

func (c *claim) lost(ctx context.Context, what string, err error) {
	c.log.LogAttrs(ctx, slog.LevelWarn, what, slog.String("caller", c.caller), slog.String("error", err.Error()))
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return api.Because(api.Unavailable, err)
}

func inProgress(left time.Duration) error {
	return &api.Error{Code: api.RequestInProgress, RetryAfter: min(left, retry)}
}

package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/table"
)

// itemKey is a conversation's place: nobody but its caller looks there.
func itemKey(caller auth.Caller, id string) table.Key {
	return table.Key{Partition: "session#" + caller.ID, Sort: id}
}

// Store is the conversations in a table. Any number of Stores may share one.
type Store struct {
	Table table.Table
	Keep  time.Duration    // how long a conversation lasts after its last turn
	Now   func() time.Time // nil: time.Now
}

// patience is how long a change of a conversation may take. It is below what a
// chat has left before its Lambda's deadline.
const patience = 3 * time.Second

// Read returns what a model is told of a conversation, oldest first: nothing of
// one that there is not. It refuses an id that is none, and anonymous callers; its
// errors are for the api's error table.
func (s *Store) Read(ctx context.Context, caller auth.Caller, id string) ([]model.Message, error) {
	if err := permit(caller, id); err != nil {
		return nil, err
	}
	_, turns, err := s.transcript(ctx, caller, id)
	if err != nil && !errors.Is(err, table.ErrNotFound) {
		return nil, api.Because(api.Unavailable, err)
	}
	return told(turns), nil
}

// Append adds a message and the whole answer of an agent to a conversation, or
// begins it, whatever has become of ctx meanwhile. After an error the turn may be
// there nevertheless, if the table didn't say.
func (s *Store) Append(ctx context.Context, caller auth.Caller, id, agent, message, answer string) error {
	if err := permit(caller, id); err != nil {
		return err
	}
	now := s.now()
	added, err := newTurn(now, agent, message, answer)
	if err != nil {
		return err
	}
	key := itemKey(caller, id)
	return table.Persist(ctx, patience, func(ctx context.Context) error {
		c, version, err := s.read(ctx, key)
		switch {
		case errors.Is(err, table.ErrNotFound):
			c.CreatedAt = now
		case err != nil:
			return err
		}
		c.add(added)
		value, err := api.Encode(c)
		if err != nil {
			return err
		}
		_, err = s.Table.Put(ctx, key, value, version, now.Add(s.Keep))
		return err
	})
}

// transcript returns a conversation and its turns, or table.ErrNotFound.
func (s *Store) transcript(ctx context.Context, caller auth.Caller, id string) (conversation, []turn, error) {
	c, _, err := s.read(ctx, itemKey(caller, id))
	if err != nil {
		return c, nil, err
	}
	turns, err := c.turns()
	return c, turns, err
}

// remove deletes a conversation, or returns table.ErrNotFound.
func (s *Store) remove(ctx context.Context, caller auth.Caller, id string) error {
	key := itemKey(caller, id)
	return table.Persist(ctx, patience, func(ctx context.Context) error {
		item, err := s.Table.Get(ctx, key)
		if err != nil {
			return err
		}
		return s.Table.Delete(ctx, key, item.Version)
	})
}

// read returns a conversation and its version, or table.ErrNotFound.
func (s *Store) read(ctx context.Context, key table.Key) (c conversation, version int64, err error) {
	item, err := s.Table.Get(ctx, key)
	if err != nil {
		return c, 0, err
	}
	if err := json.Unmarshal(item.Value, &c); err != nil {
		return c, 0, fmt.Errorf("conversation %s of %s is damaged: %w", key.Sort, key.Partition, err)
	}
	return c, item.Version, nil
}

// now is the time as conversations have it.
func (s *Store) now() time.Time {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return now().UTC().Truncate(time.Millisecond)
}

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// place is where the keys and the audit log are that a command is about: the
// data folder of this machine, or a deployment.
type place struct{ url, data string }

// flags adds to cmd, and to what is below it, the flags that name the place.
func (p *place) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().Func("url", "ask the server at this `URL`, with the token in "+tokenVariable+" or typed in", func(text string) error {
		if p.url = text; text == "" { // by a variable that isn't set, as likely as not
			return errors.New("it is empty; without --url it is about this machine")
		}
		return nil
	})
	dataFlag(cmd, &p.data)
}

func dataFlag(cmd *cobra.Command, data *string) {
	cmd.PersistentFlags().StringVar(data, "data", "", "the data `folder` of this machine (DATA_DIR, default .postern)")
	cmd.MarkPersistentFlagDirname("data")
}

// with runs do with a client of the place.
func (p *place) with(do func(c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error { return p.run(false, args, do) }
}

// withNew is with, and makes the data folder if there is none.
func (p *place) withNew(do func(c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error { return p.run(true, args, do) }
}

func (p *place) run(create bool, args []string, do func(c *client, args []string) error) error {
	c, err := p.open(create)
	if err != nil {
		return err
	}
	return errors.Join(do(c, args), c.close())
}

func (p *place) open(create bool) (*client, error) {
	if p.url != "" {
		if p.data != "" {
			return nil, errors.New("--url and --data are two places; name one")
		}
		return dial(p.url)
	}
	dir, err := dataFolder(p.data)
	if err != nil {
		return nil, err
	}
	return openFolder(dir, create)
}

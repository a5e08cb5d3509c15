package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	chatTurns = 100
	chats     = 100 // of one turn
	message   = `{"message":"I am unhappy because my tests fail on somebody else's machine."}`
)

// chat compares POST /chat, on one connection, with a bare handler around the
// same model: what is between the two is ours.
func (v *verdicts) chat(ctx context.Context, dir string) error {
	data := filepath.Join(dir, "chatting") // "chat" is a bootstrap
	key, err := keyIn(data)
	if err != nil {
		return err
	}
	ours, err := postern(dir, data)
	if err != nil {
		return err
	}
	defer ours.stop()
	other, err := bare(dir, os.DevNull)
	if err != nil {
		return err
	}
	defer other.stop()

	client := &http.Client{}
	defer client.CloseIdleConnections()
	urls := []string{ours.url + "/chat", other.url + "/chat"}
	took, err := inTurns(ctx, chatTurns, len(urls), func(i int) (float64, error) {
		took := make([]float64, 0, chats)
		for range chats {
			r := request(http.MethodPost, urls[i], key, message)
			begin := time.Now()
			if _, err := answer(client, r); err != nil {
				return 0, err
			}
			took = append(took, time.Since(begin).Seconds()*1000)
		}
		return median(took), nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("POST /chat, offline model, one connection, %d × %d in turns, medians\n", chatTurns, chats)
	show("bare net/http", "%8.3f ms", took[1])
	show("issued key", "%8.3f ms", took[0])
	v.judge("beyond the model's time", "%8.3f ms", median(took[0])-median(took[1]), "≤", 0.3)
	return nil
}

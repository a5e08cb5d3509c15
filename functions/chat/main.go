// Chat serves what runs a model, in the streaming form.
package main

import (
	"log"
	"os"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/compat"
	"postern/shared/limit"
	"postern/shared/route"
	"postern/shared/settings"
)

func main() {
	s, err := settings.Parse(settings.Environment(apigw.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	chat, err := newChat(s)
	if err != nil {
		log.Fatal(err)
	}
	handlers := compat.Chats(chat)
	handlers["chat"] = chat.Handle
	log.Fatal(apigw.StartStreaming(route.ChatFunction, api.Config{
		Handlers:    handlers,
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		Limiter:     limit.Hourly{Store: &limit.Memory{}},
		RateLimit:   s.RateLimit,
		CORSOrigins: s.CORSOrigins,
	}))
}

package load

import (
	"math/rand/v2"
	"strconv"
)

// shop makes the events of PayloadJSON: what customers of a web shop do. Names
// and places repeat, a few being much more frequent than others, while ids and
// amounts do not; that mix is what makes the ratio under zstd about six.
type shop struct {
	random   *rand.Rand
	users    *rand.Zipf
	products []string
	popular  *rand.Zipf
	agents   []string
	pages    []string
	queries  []string
}

const (
	shopUsers    = 20_000
	shopProducts = 500
)

func newShop(random *rand.Rand) *shop {
	s := &shop{
		random:  random,
		users:   rand.NewZipf(random, 1.2, 40, shopUsers-1),
		popular: rand.NewZipf(random, 1.3, 8, shopProducts-1),
		agents: []string{
			"Mozilla/5.0 (Windows NT 10.0; Win64; x64)", "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5)",
			"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5)", "Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Linux; Android 14)",
		},
		pages: []string{"/", "/cart", "/checkout", "/search", "/help", "/sale", "/login", "/account/orders"},
	}
	s.queries = []string{"shirts for summer sale ", "cheap running shoes for wide feet ", "warm jacket with hood and pockets ", "gift for a hiker "}
	colours := []string{"blue", "red", "green", "black", "white", "grey"}
	things := []string{"cotton shirt", "rain jacket", "running shoes", "wool socks", "leather belt", "sun hat", "backpack"}
	for i := range shopProducts {
		name := colours[random.IntN(len(colours))] + " " + things[random.IntN(len(things))]
		price := strconv.Itoa(5+random.IntN(200)) + ".90"
		s.products = append(s.products, `{"sku":"P-`+strconv.Itoa(1000+i)+`","name":"`+name+`","price":`+price)
	}
	return s
}

// event appends an event of exactly length bytes, at least jsonRecordSizeMin
// less 15 %. The digits of its time stand for stamp to fill in.
func (s *shop) event(b []byte, length int) []byte {
	end := len(b) + length - len("}")
	b = append(b, stampStart+`1700000000000000,"type":"`...)
	b = append(b, s.pick("click", "click", "view", "view", "order", "login")...)
	b = append(b, `","user":`...)
	b = strconv.AppendUint(b, 10_000+s.users.Uint64(), 10)
	for _, field := range [...]func([]byte) []byte{s.page, s.session, s.agent} {
		if next := field(b); len(next) <= end {
			b = next
		}
	}
	b = s.items(b, end)
	b = s.query(b, end)
	for len(b) < end {
		b = append(b, ' ') // white space before the brace: too short for a field
	}
	return append(b, '}')
}

// query fills up to end with what the customer searched for, if that fits.
func (s *shop) query(b []byte, end int) []byte {
	const open = `,"q":"`
	room := end - len(b) - len(open) - len(`"`)
	if room < 1 {
		return b
	}
	b = append(b, open...)
	for room > 0 {
		words := s.queries[s.random.IntN(len(s.queries))]
		words = words[:min(room, len(words))]
		b = append(b, words...)
		room -= len(words)
	}
	return append(b, '"')
}

func (s *shop) pick(from ...string) string { return from[s.random.IntN(len(from))] }

func (s *shop) page(b []byte) []byte {
	b = append(b, `,"page":"`...)
	b = append(b, s.pages[s.random.IntN(len(s.pages))]...)
	b = append(b, `","ms":`...)
	return strconv.AppendInt(b, int64(s.random.ExpFloat64()*40), 10)
}

func (s *shop) session(b []byte) []byte {
	b = append(b, `,"session":"s-`...)
	b = strconv.AppendUint(b, 1<<31+s.random.Uint64N(1<<31), 16)
	return append(b, '"')
}

func (s *shop) agent(b []byte) []byte {
	b = append(b, `,"agent":"`...)
	b = append(b, s.agents[s.random.IntN(len(s.agents))]...)
	b = append(b, `","country":"`...)
	b = append(b, s.pick("DE", "DE", "FR", "US", "GB", "IT")...)
	return append(b, '"')
}

// items appends a list of products that ends before end, if one fits.
func (s *shop) items(b []byte, end int) []byte {
	open := `,"items":[`
	for {
		next := append(b, open...)
		next = append(next, s.products[s.popular.Uint64()]...)
		next = append(next, `,"qty":`...)
		next = strconv.AppendInt(next, 1+int64(s.random.ExpFloat64()), 10)
		next = append(next, `,"line":"`...)
		next = strconv.AppendUint(next, 1<<35+s.random.Uint64N(1<<35), 16)
		next = append(next, `"}`...)
		if len(next)+len("]") > end {
			break
		}
		b, open = next, ","
	}
	if open == "," {
		b = append(b, ']')
	}
	return b
}

/* A minimal relay, written from docs/wire.md alone: ships one journal of numbers and messages, and ends.
 *
 *     minimal_relay HOST PORT UUID SECRET TASK ATTEMPT JOURNAL FILE
 *
 * UUID (32), SECRET (64) and JOURNAL (16) in hex digits. Exits with 0 once everything is acknowledged, with 1
 * if nobody answers for a minute. Understands numbers, booleans, packed rows and messages; strings and quoted
 * names count as torn here.
 */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <netdb.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 58, NONCE = 16, MAC = 16, BODY = 1309, DATAGRAM = 1400, PARTS = 1024, ROWS = 1024, COLUMNS = 64 };
enum { DATA = 1, ACK = 2, HELD = 6, IN_FLIGHT = 4, CLEAR = 0, SHAKE_128 = 1 };
static const double FIRST_TIMEOUT = 0.1, LAST_TIMEOUT = 10, PATIENCE = 60;

static uint8_t *put(uint8_t *to, uint64_t value, int bytes) {
    while (bytes--) {
        *to++ = (uint8_t)value;
        value >>= 8;
    }
    return to;
}

static uint64_t get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    while (bytes--) value = value << 8 | from[bytes];
    return value;
}

/* --- BLAKE2b (RFC 7693), with a key and a personalisation --- */

static const uint64_t IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};
static const uint8_t SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint64_t rotate(uint64_t word, int by) { return word >> by | word << (64 - by); }

static void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
    v[a] += v[b] + x, v[d] = rotate(v[d] ^ v[a], 32);
    v[c] += v[d], v[b] = rotate(v[b] ^ v[c], 24);
    v[a] += v[b] + y, v[d] = rotate(v[d] ^ v[a], 16);
    v[c] += v[d], v[b] = rotate(v[b] ^ v[c], 63);
}

static void compress(uint64_t *h, const uint8_t *block, uint64_t count, int last) {
    uint64_t v[16], m[16];
    for (int i = 0; i < 8; i++) v[i] = h[i], v[i + 8] = IV[i];
    for (int i = 0; i < 16; i++) m[i] = get(block + 8 * i, 8);
    v[12] ^= count;
    if (last) v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = SIGMA[round % 10];
        for (int i = 0; i < 4; i++) mix(v, i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
        for (int i = 0; i < 4; i++)
            mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}

/* The key takes 32 bytes, the personalisation 16 or none. */
static void blake2b(uint8_t *out, int size, const uint8_t *key, const char *person, const uint8_t *in, size_t length) {
    uint8_t parameters[64] = {(uint8_t)size, 32, 1, 1}, block[128] = {0};
    uint64_t h[8], count = 0;
    if (person) memcpy(parameters + 48, person, 16);
    for (int i = 0; i < 8; i++) h[i] = IV[i] ^ get(parameters + 8 * i, 8);
    memcpy(block, key, 32);
    do {
        compress(h, block, count += 128, 0); /* what follows is never empty here */
        memset(block, 0, sizeof block);
        memcpy(block, in, length < 128 ? length : 128);
        if (length <= 128) break;
        in += 128, length -= 128;
    } while (1);
    compress(h, block, count + length, 1);
    uint8_t digest[64];
    for (int i = 0; i < 8; i++) put(digest + 8 * i, h[i], 8);
    memcpy(out, digest, (size_t)size);
}

/* --- SHAKE-128 (FIPS 202) --- */

static void permute(uint64_t *a) {
    uint8_t lfsr = 1;
    for (int round = 0; round < 24; round++) {
        uint64_t c[5], t;
        for (int x = 0; x < 5; x++) c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
        for (int i = 0; i < 25; i++) a[i] ^= c[(i + 4) % 5] ^ rotate(c[(i + 1) % 5], 63);
        t = a[1];
        for (int i = 0, x = 1, y = 0; i < 24; i++) {
            int next = (2 * x + 3 * y) % 5, by = (i + 1) * (i + 2) / 2 % 64;
            x = y, y = next;
            uint64_t kept = a[x + 5 * y];
            a[x + 5 * y] = by ? rotate(t, 64 - by) : t, t = kept;
        }
        for (int y = 0; y < 25; y += 5) {
            memcpy(c, a + y, sizeof c);
            for (int x = 0; x < 5; x++) a[y + x] = c[x] ^ (~c[(x + 1) % 5] & c[(x + 2) % 5]);
        }
        for (int j = 0; j < 7; j++) {
            if (lfsr & 1) a[0] ^= 1ull << ((1 << j) - 1);
            lfsr = (uint8_t)(lfsr << 1 ^ (lfsr >> 7) * 0x71);
        }
    }
}

/* Xors what SHAKE-128 makes of at most 167 bytes into a text. */
static void shake_128(uint8_t *text, size_t size, const uint8_t *in, size_t length) {
    enum { RATE = 168 };
    uint8_t block[RATE] = {0};
    uint64_t state[25] = {0};
    memcpy(block, in, length), block[length] = 0x1f, block[RATE - 1] |= 0x80;
    for (int i = 0; i < RATE / 8; i++) state[i] = get(block + 8 * i, 8);
    for (size_t i = 0; i < size; i++) {
        if (i % RATE == 0) permute(state);
        text[i] ^= (uint8_t)(state[i % RATE / 8] >> 8 * (i % 8));
    }
}

/* --- blocks --- */

typedef struct {
    int columns, has[3]; /* step, progress, time */
    uint64_t reserved[3], cells[COLUMNS];
    size_t size; /* of the column table */
    uint8_t kinds[COLUMNS], table[2 * BODY];
} Row;

static struct {
    int count;
    Row row[ROWS];
} rows;

static uint64_t bits(double value) {
    uint64_t found;
    memcpy(&found, &value, 8);
    return found;
}

static uint8_t *flush_rows(uint8_t *out) {
    uint8_t *begin = out;
    const Row *first = rows.row;
    if (!rows.count) return out;
    *out = 1, out += 5;
    out = put(out, (uint64_t)rows.count, 2);
    for (int i = 0; i < 3; i++) *out++ = (uint8_t)first->has[i];
    *out++ = 0, out = put(out, first->size, 2);
    memcpy(out, first->table, first->size), out += first->size;
    for (int what = 0; what < 3; what++)
        for (int i = 0; i < rows.count && first->has[what]; i++) out = put(out, rows.row[i].reserved[what], 8);
    for (int column = 0; column < first->columns; column++)
        for (int i = 0; i < rows.count; i++)
            out = put(out, rows.row[i].cells[column], first->kinds[column] == 3 ? 1 : 8);
    put(begin + 1, (uint64_t)(out - begin - 5), 4);
    rows.count = 0;
    return out;
}

static int add_cell(Row *row, const char *name, int kind, uint64_t cell) {
    size_t size = strlen(name);
    for (uint8_t *entry = row->table; entry < row->table + row->size; entry += 4 + get(entry + 2, 2))
        if (get(entry + 2, 2) == size && !memcmp(entry + 4, name, size)) return 0;
    if (row->columns == COLUMNS || !size || row->size + 4 + size > sizeof row->table) return 0;
    row->kinds[row->columns] = (uint8_t)kind, row->cells[row->columns++] = cell;
    uint8_t *entry = row->table + row->size;
    *entry = (uint8_t)kind, entry[1] = 0, put(entry + 2, size, 2), memcpy(entry + 4, name, size);
    row->size += 4 + size;
    return 1;
}

/* key=value ... */
static int read_pairs(char *text, Row *row) {
    static const char *reserved[] = {"step", "progress", "time"};
    for (char *token; (token = strtok_r(text, " \t\r\v\f", &text));) {
        char *value = strchr(token, '='), *stop;
        if (!value || strchr(token, '"')) return 0;
        *value++ = 0;
        int what = 0;
        while (what < 3 && strcmp(token, reserved[what])) what++;
        long long whole = strtoll(value, &stop, 10);
        int is_whole = *value && !*stop;
        double number = strtod(value, &stop);
        if (!strcmp(value, "true") || !strcmp(value, "false")) {
            if (what < 3 || !add_cell(row, token, 3, *value == 't')) return 0;
        } else if (!*value || *stop || (what == 0 && !is_whole)) {
            return 0;
        } else if (what < 3) {
            if (row->has[what]++) return 0;
            row->reserved[what] = what == 0 ? (uint64_t)whole
                                : what == 1 ? bits(number) : (uint64_t)(int64_t)(number * 1e6);
        } else if (!add_cell(row, token, is_whole ? 2 : 1, is_whole ? (uint64_t)whole : bits(number))) {
            return 0;
        }
    }
    return 1;
}

/* =step progress time names types values */
static int read_packed(char *text, Row *row) {
    char *field[6], *stop;
    for (int i = 0; i < 6; i++)
        if (!(field[i] = strtok_r(text, " ", &text))) return 0;
    for (int i = 0; i < 2; i++)
        if ((row->has[i] = strcmp(field[i], "-") != 0))
            row->reserved[i] = i ? bits(strtod(field[i], &stop)) : (uint64_t)strtoll(field[i], &stop, 10);
    row->has[2] = 1, row->reserved[2] = (uint64_t)(strtoll(field[2], &stop, 10) / 1000);
    const char *digits = field[5];
    for (const char *type = field[4]; *type; type++) {
        uint64_t cell = 0;
        const char *name = strtok_r(field[3], ",", &field[3]);
        for (int i = 0; i < (*type == '?' ? 1 : 8); i++, digits += 2) {
            unsigned byte;
            if (sscanf(digits, "%2x", &byte) != 1) return 0;
            cell |= (uint64_t)byte << 8 * i;
        }
        if (!name || !add_cell(row, name, *type == 'd' ? 1 : *type == 'q' ? 2 : 3, cell)) return 0;
    }
    return !*digits && !*text && !*field[3];
}

/* Reads a row; 0 if it can't be read whole. Rows alike share a block. */
static int add_row(const char *line, size_t length, uint8_t **out) {
    static Row row;
    char text[BODY];
    memset(&row, 0, sizeof row);
    if (length >= sizeof text || memchr(line, 0x18, length) || memchr(line, 0, length)) return 0;
    memcpy(text, line, length), text[length] = 0;
    if (!(*text == '=' ? read_packed(text + 1, &row) : read_pairs(text, &row))) return 0;
    if (!row.columns && !row.has[0] && !row.has[1] && !row.has[2]) return 1; /* a blank line */
    if (rows.count == ROWS || (rows.count && (memcmp(rows.row->has, row.has, sizeof row.has) ||
                                              rows.row->size != row.size ||
                                              memcmp(rows.row->table, row.table, row.size))))
        *out = flush_rows(*out);
    rows.row[rows.count++] = row;
    return 1;
}

static int has_message;

/* Encodes complete lines; returns the size of the body. */
static size_t encode(const char *line, const char *end, uint8_t *out) {
    uint8_t *begin = out;
    uint32_t torn = 0;
    has_message = 0;
    while (line < end) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)(newline - line);
        const char *space = memchr(line, ' ', length);
        if (*line == '!' && space) {
            size_t kind = (size_t)(space - line - 1);
            out = flush_rows(out), has_message = 1;
            *out++ = 2, out = put(out, length - 1, 4);
            *out++ = (uint8_t)kind, memcpy(out, line + 1, kind), out += kind;
            memcpy(out, space + 1, length - kind - 2), out += length - kind - 2;
        } else if (length && *line != '#' && !add_row(line, length, &out)) {
            torn++;
        }
        line = newline + 1;
    }
    out = flush_rows(out);
    if (torn) *out++ = 3, out = put(out, 4, 4), out = put(out, torn, 4);
    return (size_t)(out - begin);
}

/* --- the way to the collector --- */

static uint8_t submission[16], journal[8], mac_key[32], cipher_key[32];
static int32_t task;
static uint16_t attempt;
static uint32_t token;
static int link_to_collector;
static FILE *random_bytes;
static uint8_t content[PARTS * BODY];

static void send_range(uint64_t start, uint64_t end, size_t size) {
    size_t parts = size ? (size + BODY - 1) / BODY : 1;
    for (size_t part = 0; part < parts; part++) {
        uint8_t datagram[DATAGRAM] = {'H', 'T', 1, DATA};
        size_t piece = part + 1 < parts ? BODY : size - part * BODY;
        memcpy(datagram + 4, submission, 16);
        put(datagram + 20, (uint32_t)task, 4);
        put(datagram + 24, attempt, 2), put(datagram + 26, part, 2), put(datagram + 28, parts, 2);
        memcpy(datagram + 30, journal, 8);
        put(datagram + 38, start, 8), put(datagram + 46, end, 8), put(datagram + 54, ++token, 4);
        uint8_t *body = datagram + HEADER + 1, seed[32 + NONCE];
        datagram[HEADER] = has_message ? SHAKE_128 : CLEAR;
        if (has_message) {
            if (!random_bytes || fread(body, 1, NONCE, random_bytes) != NONCE) exit(71);
            memcpy(seed, cipher_key, 32), memcpy(seed + 32, body, NONCE);
            body += NONCE;
        }
        memcpy(body, content + part * BODY, piece);
        if (has_message) shake_128(body, piece, seed, sizeof seed);
        body += piece;
        blake2b(body, MAC, mac_key, NULL, datagram, (size_t)(body - datagram));
        send(link_to_collector, datagram, (size_t)(body - datagram) + MAC, 0); /* what is lost is sent again */
    }
}

/* Receives one answer about our journal; 0 if it is none. */
static int receive(uint64_t *start, uint64_t *credit, int *kind) {
    uint8_t answer[DATAGRAM], mac[MAC], different = 0;
    ssize_t size = recv(link_to_collector, answer, sizeof answer, MSG_DONTWAIT);
    if (size != HEADER + MAC || memcmp(answer, "HT\1", 3)) return 0;
    blake2b(mac, MAC, mac_key, NULL, answer, HEADER);
    for (int i = 0; i < MAC; i++) different |= mac[i] ^ answer[HEADER + i];
    if (different || memcmp(answer + 4, submission, 16) || (int32_t)get(answer + 20, 4) != task) return 0;
    if (memcmp(answer + 30, journal, 8)) return 0;
    *kind = answer[3], *start = get(answer + 38, 8), *credit = get(answer + 46, 8);
    return *kind == ACK || *kind == HELD;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Sends what follows the watermark, a few ranges at a time, until all is acknowledged. */
static int ship(const char *text, uint64_t length) {
    uint64_t watermark = 0, credit = 0;
    double timeout = FIRST_TIMEOUT, heard = now();
    while (watermark < length) {
        uint64_t start = watermark;
        for (int flight = 0; flight < IN_FLIGHT && start < length; flight++) {
            uint64_t end = start, next;
            size_t size = 0;
            do {
                next = (uint64_t)((char *)memchr(text + end, '\n', length - end) - text) + 1;
                size_t larger = next - start < PARTS * BODY / 4 ? encode(text + start, text + next, content) : SIZE_MAX;
                if (end > start && larger > BODY) break;
                end = next, size = larger;
            } while (end < length && size <= BODY);
            if (flight && end > credit) break;
            size = encode(text + start, text + end, content);
            send_range(start, end, size);
            start = end;
        }
        double until = now() + timeout * (1 + 0.25 * rand() / RAND_MAX);
        int advanced = 0;
        for (double left; !advanced && (left = until - now()) > 0;) {
            struct pollfd ready = {link_to_collector, POLLIN, 0};
            poll(&ready, 1, (int)(1000 * left) + 1);
            uint64_t told, willing;
            int kind;
            if (!receive(&told, &willing, &kind)) continue;
            heard = now(), credit = willing, timeout = FIRST_TIMEOUT;
            if (kind == ACK && told != watermark) watermark = told, advanced = 1;
        }
        if (!advanced && timeout < LAST_TIMEOUT) timeout *= 2;
        if (now() - heard > PATIENCE) return 1;
    }
    return 0;
}

static void unhex(uint8_t *out, const char *digits, int bytes) {
    for (int i = 0; i < bytes; i++) {
        unsigned byte;
        if (!isxdigit((unsigned char)digits[2 * i]) || sscanf(digits + 2 * i, "%2x", &byte) != 1) exit(64);
        out[i] = (uint8_t)byte;
    }
}

int main(int count, char **words) {
    static char text[64 << 20];
    struct addrinfo wanted = {.ai_socktype = SOCK_DGRAM}, *found;
    uint8_t secret[32], message[4], key[32];
    if (count != 9 || strlen(words[3]) != 32 || strlen(words[4]) != 64 || strlen(words[7]) != 16) return 64;
    unhex(submission, words[3], 16), unhex(secret, words[4], 32), unhex(journal, words[7], 8);
    task = atoi(words[5]), attempt = (uint16_t)atoi(words[6]);
    put(message, (uint32_t)task, 4);
    blake2b(key, 32, secret, "hpctrack run key", message, 4);
    blake2b(mac_key, 32, key, NULL, (const uint8_t *)"MAC", 3);
    blake2b(cipher_key, 32, key, NULL, (const uint8_t *)"cipher", 6);
    random_bytes = fopen("/dev/urandom", "rb");
    FILE *file = fopen(words[8], "rb");
    if (!file || getaddrinfo(words[1], words[2], &wanted, &found)) return 66;
    size_t length = fread(text, 1, sizeof text, file);
    while (length && text[length - 1] != '\n') length--; /* the last line has no end yet */
    link_to_collector = socket(found->ai_family, SOCK_DGRAM, 0);
    if (connect(link_to_collector, found->ai_addr, found->ai_addrlen)) return 69;
    freeaddrinfo(found), fclose(file);
    return ship(text, length);
}

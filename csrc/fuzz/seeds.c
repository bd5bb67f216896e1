/* SPDX-License-Identifier: Apache-2.0 */
/* Write a seed corpus from the vectors: seeds KIND FOLDER.  A flag octet stands before each message (fuzz_*.c). */
#include "../tests/vectors.h"

#include <stdio.h>
#include <string.h>

static unsigned number;
static const char *folder;

static unsigned nibble(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10); }

static void seed(unsigned first, unsigned second, const char *hex)
{
    char path[1000];
    (void)snprintf(path, sizeof path, "%s/seed%u", folder, number++);
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return;
    (void)fputc((int)first, file);
    if (second < 256)
        (void)fputc((int)second, file);
    for (; *hex != '\0'; hex += 2)
        (void)fputc((int)(nibble(hex[0]) << 4 | nibble(hex[1])), file);
    (void)fclose(file);
}

/* One job in an arena of 512 bytes, and the same job three times. */
static void batch(unsigned kind, const char *message)
{
    char hex[4000];
    const unsigned size = (unsigned)(strlen(message) / 2) & 255;
    (void)snprintf(hex, sizeof hex, "00%02x%s", size, message);
    seed(kind, 2, hex);
    (void)snprintf(hex, sizeof hex, "00%02x%s%02x%s%02x%s", size, message, size, message, size, message);
    seed(kind, 2, hex);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 1;
    const char *kind = argv[1];
    folder = argv[2];
    for (size_t i = 0; strcmp(kind, "drm_stkm") == 0 && i < sizeof drm_vectors / sizeof *drm_vectors; i++) {
        seed(0, 256, drm_vectors[i].message);
        seed(8, 256, drm_vectors[i].partial);
    }
    for (size_t i = 0; strcmp(kind, "smartcard_stkm") == 0 && i < sizeof stkm_vectors / sizeof *stkm_vectors; i++)
        seed(0, 256, stkm_vectors[i].message);
    for (size_t i = 0; strcmp(kind, "smartcard_stkm") == 0 && i < sizeof partial_vectors / sizeof *partial_vectors; i++)
        seed(8, 256, partial_vectors[i].partial);
    for (size_t i = 0; strcmp(kind, "smartcard_ltkm") == 0 && i < sizeof ltkm_vectors / sizeof *ltkm_vectors; i++)
        seed(0, 256, ltkm_vectors[i].message);
    for (size_t i = 0; strcmp(kind, "verification") == 0 && i < sizeof verification_vectors / sizeof *verification_vectors; i++)
        seed(verification_vectors[i].reporting << 3, 256, verification_vectors[i].message);
    if (strcmp(kind, "batch") == 0) {
        for (size_t i = 0; i < sizeof drm_vectors / sizeof *drm_vectors; i++)
            batch(0, drm_vectors[i].message);
        for (size_t i = 0; i < sizeof stkm_vectors / sizeof *stkm_vectors; i++)
            batch(1, stkm_vectors[i].message);
        for (size_t i = 0; i < sizeof ltkm_vectors / sizeof *ltkm_vectors; i++)
            batch(2, ltkm_vectors[i].message);
    }
    if (strcmp(kind, "fields") == 0) { /* kind, and from the third bit on: lenient, partial */
        for (size_t i = 0; i < sizeof drm_vectors / sizeof *drm_vectors; i++) {
            seed(0, 256, drm_vectors[i].message);
            seed(32, 256, drm_vectors[i].partial);
        }
        for (size_t i = 0; i < sizeof stkm_vectors / sizeof *stkm_vectors; i++)
            seed(1, 256, stkm_vectors[i].message);
        for (size_t i = 0; i < sizeof partial_vectors / sizeof *partial_vectors; i++)
            seed(33, 256, partial_vectors[i].partial);
        for (size_t i = 0; i < sizeof ltkm_vectors / sizeof *ltkm_vectors; i++)
            seed(2, 256, ltkm_vectors[i].message);
        for (size_t i = 0; i < sizeof verification_vectors / sizeof *verification_vectors; i++)
            seed(verification_vectors[i].reporting ? 35 : 3, 256, verification_vectors[i].message);
    }
    return 0;
}

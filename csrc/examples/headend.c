/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a headend does with libbcast, for one service: set up once, then one call per crypto period.
 *
 *   cc -o headend headend.c $(pkg-config --cflags --libs bcast)
 *
 * It prints one sealed STKM of the DRM Profile in hexadecimal, the worked example A of the layout notes (drm-profile 8.2).
 * Ten thousand services are the same with bcast_drm_stkm_seal_batch(): one job, one key context and one message for each.
 */
#include <bcast.h>

#include <stdalign.h>
#include <stdio.h>
#include <string.h>

/* Storage is the headend's; it could as well be one large array for all services. */
static alignas(BCAST_ALIGNMENT) unsigned char provider_room[BCAST_PROVIDER_SIZE];
static alignas(BCAST_ALIGNMENT) unsigned char key_room[BCAST_DRM_KEY_SIZE];

int main(void)
{
    bcast_provider *provider;
    bcast_drm_key *key;
    bcast_error error;
    uint8_t seak[32], packet[BCAST_DRM_STKM_MAX];
    size_t length;
    int status;

    for (unsigned i = 0; i < sizeof seak; i++)
        seak[i] = (uint8_t)(0x10 + i); /* in earnest: from the BSM, with KeyMaterial */
    const bcast_drm_keys keys = {.sek = seak, .sas = seak + 16};

    /* Once: NULL takes the fastest provider there is. */
    status = bcast_provider_open(provider_room, sizeof provider_room, NULL, &provider);
    if (status == BCAST_OK)
        status = bcast_drm_key_init(key_room, sizeof key_room, provider, &keys, BCAST_USE_SEAL, &key);
    if (status != BCAST_OK) {
        fprintf(stderr, "headend: %s\n", bcast_status_name(status));
        return 1;
    }

    /* Every crypto period: a new TEK, and the STKM that tells it. */
    bcast_drm_stkm message = {
        .present = BCAST_DRM_SERVICE,
        .protection_after_reception = 3,
        .traffic_protection_protocol = BCAST_IPSEC,
        .traffic_key_lifetime = 5,
        .id_length = 4,
        .id = {0x00, 0x00, 0x02, 0x9b},
        .material_length = BCAST_KEY_LENGTH,
        .service_CID_extension = 1,
    };
    for (unsigned i = 0; i < BCAST_KEY_LENGTH; i++)
        message.traffic_key_material[i] = (uint8_t)(0x50 + i); /* in earnest: from a random source */

    status = bcast_drm_stkm_seal(provider, key, &message, NULL, 0, packet, sizeof packet, &length, &error);
    if (status == BCAST_OK) {
        for (size_t i = 0; i < length; i++)
            printf("%02x", packet[i]); /* in earnest: one UDP payload, repeated until the next one */
        printf("\n");
    } else {
        char path[BCAST_PATH_MAX];
        (void)bcast_error_path(&error, path, sizeof path, &length);
        fprintf(stderr, "headend: %s: %s\n", bcast_status_name(status), path);
    }

    bcast_drm_key_wipe(key);
    bcast_provider_close(provider);
    return status != BCAST_OK;
}

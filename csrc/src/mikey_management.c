/* SPDX-License-Identifier: Apache-2.0 */
/* What management data of several kinds share: access criteria and terminal binding, and the security policy extension. */
#include "mikey.h"

/* --- access criteria and terminal binding ------------------------------------------------------------------------------------- */

bool tail_read(reader *r, bcast_management_tail *tail, bool criteria, bool binding)
{
    uint8_t length;
    tail->has_criteria = criteria;
    tail->has_binding = binding;
    if (criteria) {
        uint32_t count = 0;
        if (!criteria_read(r, &tail->access_criteria, &count, 1))
            return false;
        tail->number_of_access_criteria = (uint16_t)count;
    }
    /* confidence: guess - terminal binding block; 32 bits of the key id are likely, 8 or 16 of the URI's length open (5.3) */
    return !binding
           || (take_u32(r, BCAST_F_TERMINAL_BINDING_KEY_ID, &tail->terminal_binding_key_id)
               && take_u8(r, BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH, &length)
               && take_span(r, length, BCAST_F_PERMISSIONS_ISSUER_URI, &tail->permissions_issuer_uri));
}

void consider_tail(longest *l, const source *s, const bcast_management_tail *tail)
{
    if (tail->has_criteria)
        consider_items(l, s, tail->access_criteria, BCAST_S_MANAGEMENT, BCAST_F_CRITERION_VALUE, 1, 0);
    if (tail->has_binding)
        consider(l, tail->permissions_issuer_uri.length, BCAST_S_MANAGEMENT, BCAST_F_PERMISSIONS_ISSUER_URI, 1, 0);
}

uint32_t tail_measure(const source *s, const bcast_management_tail *tail)
{
    uint32_t size = 0;
    if (tail->has_criteria > 1)
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_ACCESS_CRITERIA_FLAG, 1, 0) - 1;
    if (tail->has_binding > 1)
        return decline(s, BCAST_E_BAD_VALUE, BCAST_S_MANAGEMENT, BCAST_F_TERMINAL_BINDING_FLAG, 1, 0) - 1;
    if (tail->has_criteria) {
        if (criteria_count(s, tail->access_criteria, BCAST_S_MANAGEMENT, 1) < 0)
            return UINT32_MAX;
        size += 1 + tail->access_criteria.length;
    }
    if (tail->has_binding) {
        if (!span_fits(tail->permissions_issuer_uri, s->base_length))
            return decline(s, BCAST_E_SPAN, BCAST_S_MANAGEMENT, BCAST_F_PERMISSIONS_ISSUER_URI, 1, 0) - 1;
        if (tail->permissions_issuer_uri.length > 255)
            return decline(s, BCAST_E_BAD_LENGTH, BCAST_S_MANAGEMENT, BCAST_F_PERMISSIONS_ISSUER_URI_LENGTH, 1, 0) - 1;
        size += 5 + tail->permissions_issuer_uri.length;
    }
    return size;
}

uint32_t tail_size(const bcast_management_tail *tail)
{
    return (tail->has_criteria ? 1 + tail->access_criteria.length : 0)
           + (tail->has_binding ? 5 + tail->permissions_issuer_uri.length : 0);
}

void tail_write(writer *w, const bcast_management_tail *tail, const uint8_t *base)
{
    if (tail->has_criteria) {
        uint8_t *number = w->at++;
        bcast_span rest = tail->access_criteria;
        bcast_item item;
        unsigned count = 0;
        while (bcast_item_next(base, &rest, &item) == 1)
            count++;
        *number = (uint8_t)count;
        put_span(w, base, tail->access_criteria);
    }
    if (tail->has_binding) {
        put_u32(w, tail->terminal_binding_key_id);
        put_u8(w, tail->permissions_issuer_uri.length);
        put_span(w, base, tail->permissions_issuer_uri);
    }
}

/* --- security policy extension ------------------------------------------------------------------------------------------------ */

/* confidence: own - framing of the SPE block (decision 12); its numbers are passed through (decision 13) */
bool policy_read(reader *r, bcast_policy *policy)
{
    uint8_t flags;
    if (!take_u8(r, BCAST_F_SECURITY_POLICY_EXTENSION, &policy->security_policy_extension)
        || !take_u8(r, BCAST_F_COST_FLAG, &flags))
        return false;
    policy->present = (uint8_t)((flags & 0x80 ? BCAST_POLICY_COST : 0) | (flags & 0x40 ? BCAST_POLICY_PURSE : 0)
                                | (flags & 0x10 ? BCAST_POLICY_PLAYBACK : 0) | (flags & 0x04 ? BCAST_POLICY_TEK : 0));
    policy->purse_mode = flags >> 5 & 1;
    policy->playback_mode = flags >> 3 & 1;
    policy->tek_mode = flags >> 1 & 1;
    if (policy->purse_mode && !(policy->present & BCAST_POLICY_PURSE))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_PURSE_MODE);
    if (policy->playback_mode && !(policy->present & BCAST_POLICY_PLAYBACK))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_PLAYBACK_MODE);
    if (policy->tek_mode && !(policy->present & BCAST_POLICY_TEK))
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_TEK_MODE);
    if (flags & 1)
        return refuse_last(r, BCAST_E_BAD_VALUE, BCAST_F_RESERVED);
    return (!(policy->present & BCAST_POLICY_COST) || take_u32(r, BCAST_F_COST_VALUE, &policy->cost_value))
           && (!(policy->present & BCAST_POLICY_PURSE) || take_u32(r, BCAST_F_PURSE, &policy->purse))
           && (!(policy->present & BCAST_POLICY_PLAYBACK) || take_u32(r, BCAST_F_PLAYBACK, &policy->playback))
           && (!(policy->present & BCAST_POLICY_TEK) || take_u32(r, BCAST_F_TEK, &policy->tek));
}

uint32_t policy_measure(const source *s, const bcast_policy *p)
{
    const int scope = BCAST_S_POLICY;
    if (p->present > 15)
        return decline(s, BCAST_E_ARGUMENT, scope, BCAST_F_NONE, 1, 0);
    if (p->purse_mode > ((p->present & BCAST_POLICY_PURSE) != 0))
        return decline(s, BCAST_E_BAD_VALUE, scope, BCAST_F_PURSE_MODE, 1, 0);
    if (p->playback_mode > ((p->present & BCAST_POLICY_PLAYBACK) != 0))
        return decline(s, BCAST_E_BAD_VALUE, scope, BCAST_F_PLAYBACK_MODE, 1, 0);
    if (p->tek_mode > ((p->present & BCAST_POLICY_TEK) != 0))
        return decline(s, BCAST_E_BAD_VALUE, scope, BCAST_F_TEK_MODE, 1, 0);
    uint32_t size = 2;
    for (int i = 0; i < 4; i++)
        size += (p->present >> i & 1) * 4U;
    return size;
}

uint32_t policy_size(const bcast_policy *p)
{
    return 2U + 4U * ((p->present & 1U) + (p->present >> 1 & 1U) + (p->present >> 2 & 1U) + (p->present >> 3 & 1U));
}

void policy_write(writer *w, const bcast_policy *p)
{
    put_u8(w, p->security_policy_extension);
    put_u8(w, (p->present & BCAST_POLICY_COST ? 0x80U : 0U) | (p->present & BCAST_POLICY_PURSE ? 0x40U : 0U)
                  | (unsigned)p->purse_mode << 5 | (p->present & BCAST_POLICY_PLAYBACK ? 0x10U : 0U)
                  | (unsigned)p->playback_mode << 3 | (p->present & BCAST_POLICY_TEK ? 0x04U : 0U) | (unsigned)p->tek_mode << 1);
    if (p->present & BCAST_POLICY_COST)
        put_u32(w, p->cost_value);
    if (p->present & BCAST_POLICY_PURSE)
        put_u32(w, p->purse);
    if (p->present & BCAST_POLICY_PLAYBACK)
        put_u32(w, p->playback);
    if (p->present & BCAST_POLICY_TEK)
        put_u32(w, p->tek);
}

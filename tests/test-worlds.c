/* normflow: worlds whose truth is known. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "nf-world-private.h"

static const NfWorldPattern patterns[] = { NF_WORLD_BOUNCE, NF_WORLD_PONG, NF_WORLD_GRIDWORLD };
static const NfPixelLayout layouts[] = { NF_PIXELS_RGB, NF_PIXELS_GRAY, NF_PIXELS_YUV420 };

typedef struct
{
  NfFrame frame;
  NfPixelLayout layout;
  gsize size;
  guint8 *data;
} Picture;

static Picture *
picture_new (NfPixelLayout layout, guint width, guint height)
{
  Picture *self = g_new0 (Picture, 1);
  const gint half = (gint)(width + 1) / 2;
  self->layout = layout;
  self->size = nf_frame_samples (layout, width, height);
  self->data = g_malloc0 (self->size);
  self->frame = (NfFrame){ width, height, { { self->data, (gint)width, 1 } } };
  if (layout == NF_PIXELS_RGB)
    for (gint c = 0; c < 3; c++)
      self->frame.planes[c] = (NfPlane){ self->data + c, 3 * (gint)width, 3 };
  if (layout == NF_PIXELS_YUV420)
    for (guint c = 0; c < 2; c++)
      self->frame.planes[1 + c]
          = (NfPlane){ self->data + width * height + c * half * ((height + 1) / 2), half, 1 };
  return self;
}

static void
picture_free (Picture *self)
{
  g_free (self->data);
  g_free (self);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC (Picture, picture_free)

static NfWorld *
world_new (NfWorldPattern pattern, guint width, guint height, guint64 seed)
{
  g_autoptr (GError) error = NULL;
  NfWorld *world = nf_world_new (pattern, width, height, seed, &error);
  nf_test_ok (world, error);
  return world;
}

static void
step (NfWorld *world, guint action)
{
  g_autoptr (GError) error = NULL;
  nf_test_ok (nf_world_step (world, action, &error), error);
}

/* An action that is held for a while. */
static guint
some_action (const NfWorld *world, guint64 seed)
{
  guint32 words[4];
  NfWorldState state;
  nf_world_get_state (world, &state);
  nf_random_u32x4 (seed, 99, state.frame / 6, words);
  return words[0] % nf_world_pattern_actions (nf_world_get_pattern (world));
}

static guint64
hash_picture (const Picture *picture)
{
  guint64 hash = G_GUINT64_CONSTANT (14695981039346656037);
  for (gsize i = 0; i < picture->size; i++)
    hash = (hash ^ picture->data[i]) * G_GUINT64_CONSTANT (1099511628211);
  return hash;
}

/* What it is */

static void
test_names (void **state)
{
  NfWorldPattern pattern;
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      assert_true (nf_world_pattern_from_name (nf_world_pattern_name (patterns[i]), &pattern));
      assert_int_equal (pattern, patterns[i]);
    }
  assert_false (nf_world_pattern_from_name ("tennis", &pattern));
  assert_false (nf_world_pattern_from_name (NULL, &pattern));
}

static void
test_sizes (void **state)
{
  static const guint bad[][2] = { { 0, 64 }, { 64, 15 }, { 15, 64 }, { 16385, 64 }, { 64, 16385 } };
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      assert_null (nf_world_new (NF_WORLD_PONG, bad[i][0], bad[i][1], 1, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
    }
}

static void
test_bad_action (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfWorld) world = world_new (patterns[i], 64, 64, 1);
      NfWorldState truth;
      assert_false (nf_world_step (world, nf_world_pattern_actions (patterns[i]), &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
      nf_world_get_state (world, &truth);
      assert_int_equal (truth.frame, 0);
    }
}

/* The same bytes on every machine, of each layout. */
static void
test_known_frames (void **state)
{
  static const guint64 golden[G_N_ELEMENTS (patterns)][G_N_ELEMENTS (layouts)] = {
    { 0xd1a5ef2b0f4de225, 0x36347eaeae0337d1, 0x666644d31524168b },
    { 0xe3f068e4b4a54a26, 0x97f003c3f48b85e6, 0x812b7e3db825f53a },
    { 0x528a1531b365eaf8, 0x96e65fa9181db6c6, 0xa75e70b978a38e00 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    for (guint j = 0; j < G_N_ELEMENTS (layouts); j++)
      {
        g_autoptr (NfWorld) world = world_new (patterns[i], 67, 64, G_GUINT64_CONSTANT (0x123456789abcdef0));
        g_autoptr (Picture) picture = picture_new (layouts[j], 67, 64);
        guint64 hash = 0;
        for (guint n = 0; n < 300; n++)
          {
            nf_world_render (world, layouts[j], &picture->frame);
            hash = hash * 31 + hash_picture (picture);
            step (world, some_action (world, 5));
          }
        if (hash != golden[i][j])
          fail_msg ("%s, layout %u: 0x%016" G_GINT64_MODIFIER "x", nf_world_pattern_name (patterns[i]), j,
                    hash);
      }
}

/* Rows with gaps, samples that interleave, and nothing written outside. */
static void
test_strides (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autoptr (NfWorld) world = world_new (patterns[i], 33, 27, 3);
      g_autoptr (Picture) plain = picture_new (NF_PIXELS_YUV420, 33, 27);
      guint8 wide[27 + 14][80];
      memset (wide, 0xa5, sizeof wide);
      /* luma, and then Cb and Cr taking turns */
      NfFrame frame = { 33, 27, { { wide[0], 80, 1 }, { wide[27], 80, 2 }, { wide[27] + 1, 80, 2 } } };
      nf_world_render (world, NF_PIXELS_YUV420, &plain->frame);
      nf_world_render (world, NF_PIXELS_YUV420, &frame);
      for (guint c = 0; c < 3; c++)
        for (guint y = 0; y < (c ? 14 : 27); y++)
          for (guint x = 0; x < (c ? 17 : 33); x++)
            assert_int_equal (plain->frame.planes[c].data[y * plain->frame.planes[c].stride + x],
                              frame.planes[c].data[y * 80 + x * frame.planes[c].step]);
      for (guint y = 0; y < 27 + 14; y++)
        for (guint x = y < 27 ? 33 : 34; x < 80; x++)
          assert_int_equal (wide[y][x], 0xa5);

      /* of interlaced frames chroma may have a row more, which is written as well */
      guint8 more[2][18 + 11][16];
      g_autoptr (NfWorld) small = world_new (patterns[i], 16, 18, 3);
      for (guint k = 0; k < 2; k++)
        {
          NfFrame interlaced = { .width = 16, .height = 18, .interlaced = TRUE };
          memset (more[k], k ? 0xa5 : 0x5a, sizeof more[k]);
          for (guint c = 0; c < 3; c++)
            interlaced.planes[c] = (NfPlane){ c ? more[k][18] + 8 * (c - 1) : more[k][0], 16, 1 };
          nf_world_render (small, NF_PIXELS_YUV420, &interlaced);
          for (guint x = 0; x < 16; x++)
            assert_int_equal (more[k][18 + 10][x], k ? 0xa5 : 0x5a);
        }
      assert_memory_equal (more[0], more[1], (18 + 10) * 16);
    }
}

static void
test_seeds (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autoptr (GHashTable) seen = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);
      for (guint64 seed = 0; seed < 20; seed++)
        {
          g_autoptr (NfWorld) world = world_new (patterns[i], 64, 64, seed);
          g_autoptr (Picture) picture = picture_new (NF_PIXELS_GRAY, 64, 64);
          guint64 hash = 0;
          for (guint n = 0; n < 200; n++)
            {
              nf_world_render (world, NF_PIXELS_GRAY, &picture->frame);
              hash = hash * 31 + hash_picture (picture);
              step (world, some_action (world, 1));
            }
          assert_true (g_hash_table_add (seen, g_memdup2 (&hash, sizeof hash)));
        }
    }
}

/* Truth and frame */

/* Two states that differ in what can be seen never look alike: what makes entropy of states that of frames.
 */
static void
test_frames_show_the_state (void **state)
{
  static const guint sizes[][2] = { { 16, 16 }, { 17, 19 }, { 30, 24 } };
  for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
    for (guint j = 0; j < G_N_ELEMENTS (layouts); j++)
      for (guint i = 0; i < 2; i++)
        {
          g_autoptr (NfWorld) world = world_new (patterns[i], sizes[s][0], sizes[s][1], 1);
          g_autoptr (Picture) picture = picture_new (layouts[j], sizes[s][0], sizes[s][1]);
          g_autoptr (GHashTable) seen = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);
          const NfWorldGeometry *g = &world->geometry;
          for (gint x = g->left * 8 + g->radius; x <= g->right * 8 - g->radius; x++)
            for (gint y = g->top * 8 + g->radius; y <= g->bottom * 8 - g->radius; y++)
              {
                world->ball.x = x;
                world->ball.y = y;
                nf_world_render (world, layouts[j], &picture->frame);
                const guint64 hash = hash_picture (picture);
                if (!g_hash_table_add (seen, g_memdup2 (&hash, sizeof hash)))
                  fail_msg ("%s of %ux%u, layout %u: a ball at (%d, %d)/8 is seen elsewhere too",
                            nf_world_pattern_name (patterns[i]), sizes[s][0], sizes[s][1], j, x, y);
              }
          if (patterns[i] == NF_WORLD_BOUNCE)
            continue;
          for (world->ball.paddle = g->top; world->ball.paddle <= g->bottom - g->paddle_height;
               world->ball.paddle++)
            for (world->ball.score = 0; world->ball.score <= NF_WORLD_BLOCKS; world->ball.score++)
              {
                NfWorldReading reading;
                nf_world_render (world, layouts[j], &picture->frame);
                nf_world_read_frame (world, layouts[j], &picture->frame, &reading);
                assert_true (reading.has_paddle);
                assert_true (fabs (reading.paddle_y - world->ball.paddle - g->paddle_height / 2.0) < 1e-9);
                assert_int_equal (reading.score, world->ball.score);
              }
        }
}

static void
test_frames_are_read (void **state)
{
  static const guint sizes[][2] = { { 16, 16 }, { 64, 64 }, { 63, 47 }, { 160, 90 }, { 320, 240 } };
  for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
    for (guint j = 0; j < G_N_ELEMENTS (layouts); j++)
      for (guint i = 0; i < 2; i++)
        {
          g_autoptr (NfWorld) world = world_new (patterns[i], sizes[s][0], sizes[s][1], 7 + s);
          g_autoptr (Picture) picture = picture_new (layouts[j], sizes[s][0], sizes[s][1]);
          for (guint n = 0; n < 200; n++)
            {
              NfWorldState truth;
              NfWorldReading reading;
              nf_world_get_state (world, &truth);
              nf_world_render (world, layouts[j], &picture->frame);
              nf_world_read_frame (world, layouts[j], &picture->frame, &reading);
              assert_int_equal (reading.n_balls, 1);
              if (!(hypot (reading.ball_x - truth.ball_x, reading.ball_y - truth.ball_y) < 0.15))
                fail_msg ("%s of %ux%u, frame %u: ball at %g %g, read at %g %g",
                          nf_world_pattern_name (patterns[i]), sizes[s][0], sizes[s][1], n, truth.ball_x,
                          truth.ball_y, reading.ball_x, reading.ball_y);
              assert_int_equal (reading.score, truth.score);
              assert_int_equal (reading.has_paddle, patterns[i] == NF_WORLD_PONG);
              assert_true (reading.has_walls);
              if (reading.has_paddle)
                assert_true (fabs (reading.paddle_y - truth.paddle_y) < 1e-9);
              step (world, some_action (world, n / 50));
            }
        }
}

static void
add_noise (Picture *picture, double sigma, guint64 seed)
{
  g_autofree float *noise = g_new (float, picture->size);
  nf_random_normal (seed, 1, picture->size, sigma, noise);
  for (gsize i = 0; i < picture->size; i++)
    picture->data[i] = (guint8)CLAMP (picture->data[i] + noise[i], 0, 255);
}

static void
test_noisy_frames_are_read (void **state)
{
  for (guint j = 0; j < G_N_ELEMENTS (layouts); j++)
    {
      g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 3);
      g_autoptr (Picture) picture = picture_new (layouts[j], 64, 64);
      double squares = 0;
      for (guint n = 0; n < 300; n++)
        {
          NfWorldState truth;
          NfWorldReading reading;
          nf_world_get_state (world, &truth);
          nf_world_render (world, layouts[j], &picture->frame);
          add_noise (picture, 20, n);
          nf_world_read_frame (world, layouts[j], &picture->frame, &reading);
          assert_int_equal (reading.n_balls, 1);
          assert_true (reading.has_paddle);
          assert_true (reading.has_walls);
          assert_int_equal (reading.score, truth.score);
          assert_true (fabs (reading.paddle_y - truth.paddle_y) < 0.75);
          squares += pow (reading.ball_x - truth.ball_x, 2) + pow (reading.ball_y - truth.ball_y, 2);
          step (world, some_action (world, 4));
        }
      assert_true (sqrt (squares / 300) < 0.4);
    }
}

/* A wall that is gone, one that moved inwards, and a piece of one, a quarter of the frame long, where none
 * belongs. */
static void
test_wrong_walls_are_noticed (void **state)
{
  for (guint i = 0; i < 4; i++)
    {
      g_autoptr (NfWorld) world = world_new (NF_WORLD_BOUNCE, 64, 64, 3);
      g_autoptr (Picture) picture = picture_new (NF_PIXELS_RGB, 64, 64);
      NfWorldReading reading;
      nf_world_render (world, NF_PIXELS_RGB, &picture->frame);
      const gsize row = 3 * 64;
      guint8 *data = picture->data, wall[3 * 64], empty[3];
      memcpy (wall, data, row);
      memcpy (empty, data + 60 * row + 3 * 30, 3);
      if (i == 1)
        for (guint y = 0; y < 64; y++)
          for (guint x = 60; x < 64; x++)
            memcpy (data + y * row + 3 * x, empty, 3);
      if (i == 2)
        memcpy (data + 16 * row, wall, row);
      if (i == 3)
        for (guint y = 32; y < 48; y++)
          memcpy (data + y * row + 3 * 50, wall, 3);
      nf_world_read_frame (world, NF_PIXELS_RGB, &picture->frame, &reading);
      assert_int_equal (reading.has_walls, i == 0);
    }
}

/* No ball, two apart, two that touch, a faint one, a speck, a ball that is a smear. */
static void
test_wrong_balls_are_noticed (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 3);
  g_autoptr (Picture) one = picture_new (NF_PIXELS_RGB, 64, 64), two = picture_new (NF_PIXELS_RGB, 64, 64);
  NfWorldReading reading;

  for (guint i = 0; i < 2; i++)
    {
      world->ball.x = 20 * 8;
      world->ball.y = 30 * 8;
      nf_world_render (world, NF_PIXELS_RGB, &one->frame);
      world->ball.x = i ? 24 * 8 : 45 * 8;
      nf_world_render (world, NF_PIXELS_RGB, &two->frame);
      for (gsize k = 0; k < two->size; k++)
        two->data[k] = MAX (one->data[k], two->data[k]);
      nf_world_read_frame (world, NF_PIXELS_RGB, &two->frame, &reading);
      assert_int_equal (reading.n_balls, 2);
    }
  /* Paint over the ball, all of it or most. */
  const guint8 *empty = one->data + 3 * (64 * 50 + 50);
  for (gint keep = 0; keep < 2; keep++)
    {
      world->ball.x = 20 * 8;
      nf_world_render (world, NF_PIXELS_RGB, &one->frame);
      for (gint y = 26; y < 35; y++)
        for (gint x = 16; x < 25; x++)
          if (!keep || x > 18)
            memcpy (one->data + 3 * (64 * y + x), empty, 3);
      nf_world_read_frame (world, NF_PIXELS_RGB, &one->frame, &reading);
      assert_int_equal (reading.n_balls, 0);
      assert_true (isnan (reading.ball_x));
    }
  /* And the paddle. */
  world->ball.paddle = 20;
  nf_world_render (world, NF_PIXELS_RGB, &one->frame);
  for (gint y = 20; y < 32; y++)
    for (gint x = 0; x < 6; x++)
      memcpy (one->data + 3 * (64 * y + x), empty, 3);
  nf_world_read_frame (world, NF_PIXELS_RGB, &one->frame, &reading);
  assert_false (reading.has_paddle);
  assert_true (isnan (reading.paddle_y));
  assert_int_equal (reading.n_balls, 1);
}

/* How things move */

static void
test_ball_stays_inside (void **state)
{
  static const guint sizes[][2] = { { 16, 16 }, { 64, 64 }, { 16, 200 }, { 1000, 17 }, { 1920, 1080 } };
  for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
    for (guint i = 0; i < 2; i++)
      {
        g_autoptr (NfWorld) world = world_new (patterns[i], sizes[s][0], sizes[s][1], s);
        const NfWorldGeometry *g = &world->geometry;
        for (guint n = 0; n < 5000; n++)
          {
            assert_true (world->ball.x - g->radius >= g->left * 8
                         && world->ball.x + g->radius <= g->right * 8);
            assert_true (world->ball.y - g->radius >= g->top * 8
                         && world->ball.y + g->radius <= g->bottom * 8);
            step (world, some_action (world, s));
          }
      }
}

/* Action t is seen in frame t+1, and nowhere before. */
static void
test_actions_show_in_the_next_frame (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 3);
  NfWorldState before, after;
  for (guint n = 0; n < 3000; n++)
    {
      const guint action = some_action (world, 8);
      nf_world_get_state (world, &before);
      g_autoptr (NfWorld) other = nf_world_copy (world);
      step (other, (action + 1) % 3);
      step (world, action);
      nf_world_get_state (world, &after);
      assert_true (after.paddle_y == nf_world_expect_paddle (world, before.paddle_y, action));
      const double least = world->geometry.top + 6, most = world->geometry.bottom - 6;
      const double want = CLAMP (before.paddle_y + (action == 1 ? -2 : action == 2 ? 2 : 0), least, most);
      assert_true (after.paddle_y == want);
    }
  g_autoptr (NfWorld) map = world_new (NF_WORLD_GRIDWORLD, 64, 64, 3);
  static const guint moves[][3]
      = { { 4, 2, 0 }, { 2, 2, 2 }, { 0, 2, 2 }, { 3, 0, 2 }, { 1, 0, 0 }, { 3, 510, 0 }, { 1, 510, 510 } };
  for (guint i = 0; i < G_N_ELEMENTS (moves); i++)
    {
      step (map, moves[i][0]);
      nf_world_get_state (map, &after);
      assert_int_equal (after.camera_x, moves[i][1]);
      assert_int_equal (after.camera_y, moves[i][2]);
    }
}

static void
test_following_never_misses (void **state)
{
  static const guint sizes[][2] = { { 64, 64 }, { 96, 64 }, { 320, 240 } };
  for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
    {
      g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, sizes[s][0], sizes[s][1], s);
      guint hits = 0;
      for (guint n = 0; n < 10000; n++)
        {
          const gint score = world->ball.score;
          step (world, nf_world_follow (world));
          if (world->ball.score == score)
            continue;
          assert_int_equal (world->ball.score, (score + 1) % 9);
          hits++;
        }
      assert_true (hits > 50);
    }
  /* One who does nothing does miss. */
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 1);
  guint misses = 0;
  for (guint n = 0; n < 10000; n++)
    {
      const gint score = world->ball.score;
      step (world, 0);
      misses += score > 0 && world->ball.score == 0;
    }
  assert_true (misses > 5);
}

/* The map does not change while nobody looks. */
static void
test_map_stays (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_GRIDWORLD, 64, 48, 3);
  g_autoptr (Picture) first = picture_new (NF_PIXELS_RGB, 64, 48), last = picture_new (NF_PIXELS_RGB, 64, 48);
  nf_world_render (world, NF_PIXELS_RGB, &first->frame);
  const guint round
      = (guint)world->geometry.map_columns * (guint)(world->geometry.cell / world->geometry.scroll);
  assert_int_equal (world->geometry.cell % world->geometry.scroll, 0);
  for (guint n = 0; n < round; n++)
    {
      if (n == 20)
        {
          nf_world_render (world, NF_PIXELS_RGB, &last->frame);
          assert_memory_not_equal (first->data, last->data, first->size);
        }
      step (world, 4);
    }
  nf_world_render (world, NF_PIXELS_RGB, &last->frame);
  assert_memory_equal (first->data, last->data, first->size);
}

/* Entropy */

/* Values that follow from the rules by hand. */
static void
test_entropy_by_hand (void **state)
{
  NfWorldState truth;
  /* 16 by 8 places; then four speeds that kicks shift: 4 of weight 120 and 4·8 of weight 1, all apart. */
  g_autoptr (NfWorld) bounce = world_new (NF_WORLD_BOUNCE, 64, 64, 5);
  const double kick = -(120 / 128.0) * log2 (120 / 128.0) + 8 / 128.0 * 7;
  nf_world_get_state (bounce, &truth);
  assert_true (fabs (truth.entropy - 7) < 1e-12);
  assert_true (fabs (truth.information - 7) < 1e-12);
  step (bounce, 0);
  guint plain = 0;
  for (guint n = 0; n < 1000; n++)
    {
      const double entropy = nf_world_next_entropy (bounce, 0);
      /* A kick at a wall can leave two velocities possible for a frame. */
      const double hidden = log2 (bounce->belief->len);
      if (!(entropy > 0.2 && entropy < kick + hidden + 1e-12))
        fail_msg ("frame %u: %g bits, with %u velocities possible", n, entropy, bounce->belief->len);
      plain += bounce->belief->len == 1 && fabs (entropy - kick) < 1e-12;
      step (bounce, 0);
      nf_world_get_state (bounce, &truth);
      assert_true (truth.entropy == entropy);
    }
  assert_true (plain > 500); /* less only where the speed is at its limit, or kicks end in the same place */

  /* A serve: eight heights, seen at once, and four speeds, seen a frame later. */
  g_autoptr (NfWorld) pong = world_new (NF_WORLD_PONG, 64, 64, 5);
  nf_world_get_state (pong, &truth);
  assert_true (fabs (truth.entropy - 3) < 1e-12);
  assert_true (fabs (nf_world_next_entropy (pong, 1) - 2) < 1e-12);
  guint hits = 0, misses = 0;
  for (guint n = 0; n < 6000; n++)
    {
      const NfBallState before = pong->ball;
      const guint action = n % 200 < 100 ? nf_world_follow (pong) : 0;
      const double entropy = nf_world_next_entropy (pong, action);
      step (pong, action);
      const gboolean served = pong->belief->len == 4, hit = before.vx < 0 && pong->ball.vx > 0 && !served;
      hits += hit;
      misses += served;
      if (n > 0)
        assert_true (
            fabs (entropy
                  - (served ? 3
                     : hit  ? 2
                            : 0))
                < 1e-12
            || (fabs (entropy - 2) < 1e-12 && before.x == (pong->geometry.left + pong->geometry.right) * 4));
    }
  assert_true (hits > 20 && misses > 10);

  /* Cells of 1.75 bits: 8 by 8 at first, then a column every eight pixels, and none that was seen. */
  g_autoptr (NfWorld) map = world_new (NF_WORLD_GRIDWORLD, 64, 64, 5);
  static const struct
  {
    guint action;
    double entropy;
  } moves[] = { { 4, 14 }, { 4, 0 }, { 4, 0 }, { 4, 0 },        { 4, 14 }, { 3, 0 },        { 3, 0 },
                { 0, 0 },  { 4, 0 }, { 4, 0 }, { 2, 9 * 1.75 }, { 1, 0 },  { 1, 9 * 1.75 }, { 2, 0 } };
  nf_world_get_state (map, &truth);
  assert_true (truth.entropy == 112);
  for (guint i = 0; i < G_N_ELEMENTS (moves); i++)
    {
      assert_true (nf_world_next_entropy (map, moves[i].action) == moves[i].entropy);
      step (map, moves[i].action);
      nf_world_get_state (map, &truth);
      assert_true (truth.entropy == moves[i].entropy);
      assert_true (truth.entropy > 0 || truth.information == 0);
    }
}

typedef struct
{
  guint n;
  double information;
} Tally;

/* Many other futures of the same past, drawn and told apart by their pixels alone: as often as their stated
 * probability says, and of the entropy that was stated before. */
static void
check_by_branching (const NfWorld *world, guint action)
{
  const guint many = 20000;
  g_autoptr (GHashTable) seen = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, g_free);
  g_autoptr (Picture) picture = picture_new (NF_PIXELS_GRAY, world->width, world->height);
  const double stated = nf_world_next_entropy (world, action);
  for (guint i = 0; i < many; i++)
    {
      NfWorldState truth;
      g_autoptr (NfWorld) branch = nf_world_branch (world, 1000 + i);
      step (branch, action);
      nf_world_get_state (branch, &truth);
      assert_true (truth.entropy == stated);
      nf_world_render (branch, NF_PIXELS_GRAY, &picture->frame);
      const guint64 hash = hash_picture (picture);
      Tally *tally = g_hash_table_lookup (seen, &hash);
      if (!tally)
        {
          tally = g_new0 (Tally, 1);
          tally->information = truth.information;
          g_hash_table_insert (seen, g_memdup2 (&hash, sizeof hash), tally);
        }
      assert_true (fabs (tally->information - truth.information) < 1e-9);
      tally->n++;
    }
  double entropy = 0, variance = 0, sum = 0;
  GHashTableIter iter;
  Tally *tally;
  g_hash_table_iter_init (&iter, seen);
  while (g_hash_table_iter_next (&iter, NULL, (gpointer *)&tally))
    {
      const double p = exp2 (-tally->information), f = (double)tally->n / many;
      if (!(fabs (f - p) < 5.5 * sqrt (p * (1 - p) / many) + 1e-12))
        fail_msg ("%s: a frame of probability %g came %u times in %u", nf_world_pattern_name (world->pattern),
                  p, tally->n, many);
      sum += p;
      entropy -= f * log2 (f);
      variance += f * pow (log2 (f), 2);
    }
  assert_true (sum <= 1 + 1e-9);
  /* Miller and Madow's correction, and five standard errors. */
  const double error = 5 * sqrt (MAX (variance - entropy * entropy, 0) / many) + 1e-9;
  entropy += (g_hash_table_size (seen) - 1) / (2.0 * many * G_LN2);
  if (!(fabs (entropy - stated) < error + 0.002))
    fail_msg ("%s: %g bits were stated, %g counted", nf_world_pattern_name (world->pattern), stated, entropy);
}

static void
test_entropy_by_counting (void **state)
{
  /* The beginning, where velocities are hidden; then wherever a new kind of thing happens. */
  g_autoptr (NfWorld) bounce = world_new (NF_WORLD_BOUNCE, 16, 20, 2);
  guint walls = 0;
  for (guint n = 0; n < 400 && walls < 4; n++)
    {
      const double entropy = nf_world_next_entropy (bounce, 0);
      const gboolean special = bounce->belief->len > 1 || fabs (entropy - 0.5244) > 0.05;
      if (special)
        check_by_branching (bounce, 0);
      walls += special && n > 0;
      step (bounce, 0);
    }
  assert_int_equal (walls, 4);
  check_by_branching (bounce, 0);

  g_autoptr (NfWorld) pong = world_new (NF_WORLD_PONG, 16, 16, 2);
  guint checked = 0;
  for (guint n = 0; n < 2000 && checked < 6; n++)
    {
      const guint action = n % 300 < 150 ? nf_world_follow (pong) : 1;
      if (nf_world_next_entropy (pong, action) > 0)
        {
          check_by_branching (pong, action);
          checked++;
        }
      step (pong, action);
    }
  assert_int_equal (checked, 6);

  /* Two new columns of a low window: few enough cells that every frame comes often. */
  g_autoptr (NfWorld) map = world_new (NF_WORLD_GRIDWORLD, 64, 16, 2);
  map->height = 4;
  assert_true (nf_world_next_entropy (map, 4) == 2 * NF_WORLD_CELL_ENTROPY);
  check_by_branching (map, 4);
  check_by_branching (map, 0);
}

/* On the average a frame says as much as it was stated to. */
static void
test_information_is_entropy_on_average (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      double sum = 0, squares = 0, largest = 0;
      guint n = 0;
      for (guint64 seed = 0; seed < 40; seed++)
        {
          g_autoptr (NfWorld) world = world_new (patterns[i], 64, 64, seed);
          for (guint t = 0; t < 1500; t++, n++)
            {
              NfWorldState truth;
              nf_world_get_state (world, &truth);
              const double d = truth.information - truth.entropy;
              sum += d;
              squares += d * d;
              largest = MAX (largest, truth.entropy);
              step (world, some_action (world, seed));
            }
        }
      assert_true (largest > 1);
      assert_true (fabs (sum) < 5 * sqrt (squares) + 1e-9);
    }
}

/* A branch has the past of its world, and another future; a copy has the same. */
static void
test_branches (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autoptr (NfWorld) world = world_new (patterns[i], 64, 64, 6);
      g_autoptr (Picture) a = picture_new (NF_PIXELS_RGB, 64, 64), b = picture_new (NF_PIXELS_RGB, 64, 64),
                          c = picture_new (NF_PIXELS_RGB, 64, 64);
      for (guint n = 0; n < 57; n++)
        step (world, some_action (world, 2));
      g_autoptr (NfWorld) copy = nf_world_copy (world), branch = nf_world_branch (world, 7);
      gboolean apart = FALSE;
      for (guint n = 0; n < 300; n++)
        {
          const guint action = some_action (world, 3);
          nf_world_render (world, NF_PIXELS_RGB, &a->frame);
          nf_world_render (copy, NF_PIXELS_RGB, &b->frame);
          nf_world_render (branch, NF_PIXELS_RGB, &c->frame);
          assert_memory_equal (a->data, b->data, a->size);
          if (n == 0)
            assert_memory_equal (a->data, c->data, a->size);
          apart |= memcmp (a->data, c->data, a->size) != 0;
          step (world, action);
          step (copy, action);
          step (branch, action);
        }
      assert_true (apart);
    }
}

/* Actions files */

static void
write_file (const char *path, const char *text)
{
  g_autoptr (GError) error = NULL;
  nf_test_ok (g_file_set_contents (path, text, -1, &error), error);
}

static void
test_actions_file (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX);
  NfActionsWriter *writer = nf_actions_writer_open (path, &error);
  nf_test_ok (writer, error);
  for (guint i = 0; i < 1000; i++)
    nf_test_ok (nf_actions_writer_put (writer, i == 3 ? NF_ACTIONS_NO_TIME : i * 40000000ull, i % 3, &error),
                error);
  /* what was done can be read before there is more */
  g_autoptr (GArray) so_far = nf_actions_read (path, 3, &error);
  nf_test_ok (so_far, error);
  assert_int_equal (so_far->len, 1000);
  /* Back to frame 500, and on differently. */
  nf_test_ok (nf_actions_writer_rewind (writer, 500, &error), error);
  for (guint i = 500; i < 700; i++)
    nf_test_ok (nf_actions_writer_put (writer, i * 40000000ull, 2, &error), error);
  /* none that could not be read again */
  assert_false (nf_actions_writer_put (writer, 0, 65536, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  g_clear_error (&error);
  nf_test_ok (nf_actions_writer_close (writer, &error), error);
  nf_actions_writer_free (writer);

  g_autoptr (GArray) actions = nf_actions_read (path, 3, &error);
  nf_test_ok (actions, error);
  assert_int_equal (actions->len, 700);
  for (guint i = 0; i < 700; i++)
    assert_int_equal (g_array_index (actions, guint, i), i < 500 ? i % 3 : 2);
  g_autofree char *text = NULL;
  nf_test_ok (g_file_get_contents (path, &text, NULL, &error), error);
  assert_true (g_str_has_prefix (text, "{\"frame\":0,\"pts\":0,\"action\":0}\n"
                                       "{\"frame\":1,\"pts\":40000000,\"action\":1}\n"
                                       "{\"frame\":2,\"pts\":80000000,\"action\":2}\n"
                                       "{\"frame\":3,\"pts\":null,\"action\":0}\n"));
  g_unlink (path);
}

/* Some editors put a mark before the first line of UTF-8, which is none of the lines. */
static void
test_marked_files (void **state)
{
#define MARK "\xef\xbb\xbf"
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX);
  static const char *const actions[]
      = { MARK "{\"frame\":0,\"action\":2}\n", MARK "\n{\"frame\":0,\"action\":2}\n" };
  for (guint i = 0; i < G_N_ELEMENTS (actions); i++)
    {
      nf_test_ok (g_file_set_contents (path, actions[i], -1, &error), error);
      g_autoptr (GArray) read = nf_actions_read (path, 3, &error);
      nf_test_ok (read, error);
      assert_true (read->len == 1 && g_array_index (read, guint, 0) == 2);
      assert_false (nf_actions_has_controls (path));
    }
  nf_test_ok (g_file_set_contents (path, MARK "{\"frame\":0,\"controls\":[0.5]}\n", -1, &error), error);
  assert_true (nf_actions_has_controls (path));
  /* once, and nowhere else */
  static const char *const wrong[] = { MARK MARK "{\"frame\":0,\"action\":2}\n",
                                       "{\"frame\":0,\"action\":2}\n" MARK "{\"frame\":1,\"action\":2}\n" };
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      nf_test_ok (g_file_set_contents (path, wrong[i], -1, &error), error);
      assert_null (nf_actions_read (path, 3, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_FORMAT));
      g_clear_error (&error);
    }
  g_unlink (path);
}

/* What is not known is written as null, and read as unknown, or refused where it has to be known. */
static void
test_unknown_actions (void **state)
{
  static const guint done[] = { 2, NF_ACTIONS_UNKNOWN, 0, NF_ACTIONS_UNKNOWN };
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX), *text = NULL;
  g_autoptr (NfActionsWriter) writer = nf_actions_writer_open (path, &error);
  nf_test_ok (writer, error);
  for (guint i = 0; i < G_N_ELEMENTS (done); i++)
    nf_test_ok (nf_actions_writer_put (writer, i, done[i], &error), error);
  nf_test_ok (nf_actions_writer_close (writer, &error), error);
  nf_test_ok (g_file_get_contents (path, &text, NULL, &error), error);
  assert_non_null (strstr (text, "{\"frame\":1,\"pts\":1,\"action\":null}\n"));
  assert_false (nf_actions_has_controls (path));
  g_autoptr (GArray) actions = nf_actions_read (path, 3, &error);
  nf_test_ok (actions, error);
  assert_int_equal (actions->len, G_N_ELEMENTS (done));
  assert_memory_equal (actions->data, done, sizeof done);
  assert_null (nf_actions_read_known (path, 3, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_FORMAT));
  assert_non_null (strstr (error->message, "line 2: \"action\" is null"));
  g_clear_error (&error);

  write_file (path, "{\"frame\":0,\"action\":2}\n");
  g_autoptr (GArray) known = nf_actions_read_known (path, 3, &error);
  nf_test_ok (known, error);
  assert_int_equal (g_array_index (known, guint, 0), 2);
  assert_null (nf_actions_read_known (path, 2, &error));
  assert_non_null (strstr (error->message, "\"action\" is 2, not 0 to 1"));
  g_unlink (path);
}

/* A line that there is no room for leaves no part of it behind, and another may follow. */
static void
test_no_room (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX), *text = NULL;
  static const char first[] = "{\"frame\":0,\"pts\":null,\"action\":1}\n";
  struct rlimit before, room;
  g_autoptr (NfActionsWriter) writer = nf_actions_writer_open (path, &error);
  nf_test_ok (writer, error);
  nf_test_ok (nf_actions_writer_put (writer, NF_ACTIONS_NO_TIME, 1, &error), error);
  assert_int_equal (getrlimit (RLIMIT_FSIZE, &before), 0);
  room = before;
  room.rlim_cur = sizeof first - 1 + 10;
  signal (SIGXFSZ, SIG_IGN);
  assert_int_equal (setrlimit (RLIMIT_FSIZE, &room), 0);
  const gboolean put = nf_actions_writer_put (writer, NF_ACTIONS_NO_TIME, 2, &error);
  assert_int_equal (setrlimit (RLIMIT_FSIZE, &before), 0);
  signal (SIGXFSZ, SIG_DFL);
  assert_false (put);
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_WRITE));
  g_clear_error (&error);
  nf_test_ok (g_file_get_contents (path, &text, NULL, &error), error);
  assert_string_equal (text, first);
  nf_test_ok (nf_actions_writer_put (writer, NF_ACTIONS_NO_TIME, 2, &error), error);
  g_autoptr (GArray) actions = nf_actions_read (path, 3, &error);
  nf_test_ok (actions, error);
  assert_int_equal (actions->len, 2);
  assert_int_equal (g_array_index (actions, guint, 1), 2);
  assert_false (nf_actions_writer_close (writer, &error)); /* not all of it was written */
  g_unlink (path);
}

/* Controls come back as the floats that they were. */
static void
test_controls_file (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX);
  float wanted[200][3];
  guint n;
  assert_false (nf_actions_has_controls (path));
  NfActionsWriter *writer = nf_actions_writer_open (path, &error);
  nf_test_ok (writer, error);
  for (guint i = 0; i < 200; i++)
    {
      nf_random_normal (1, i, 3, 10, wanted[i]);
      nf_test_ok (nf_actions_writer_put_controls (writer, i, wanted[i], 3, &error), error);
    }
  nf_test_ok (nf_actions_writer_close (writer, &error), error);
  nf_actions_writer_free (writer);
  assert_true (nf_actions_has_controls (path));
  g_autoptr (GArray) controls = nf_actions_read_controls (path, &n, &error);
  nf_test_ok (controls, error);
  assert_int_equal (n, 3);
  assert_int_equal (controls->len, 600);
  assert_memory_equal (controls->data, wanted, sizeof wanted);
  assert_null (nf_actions_read (path, 0, &error));
  assert_non_null (strstr (error->message, "\"action\" is not there"));
  g_clear_error (&error);

  static const struct
  {
    const char *text, *part;
  } bad[] = {
    { "{\"frame\":0,\"controls\":[1,2]}\n{\"frame\":1,\"controls\":[1]}\n",
      "line 2: 1 controls, but the first frame has 2" },
    { "{\"frame\":0,\"controls\":[]}\n", "is no list" },
    { "{\"frame\":0,\"controls\":1}\n", "is no list" },
    { "{\"frame\":0,\"controls\":[1,\"a\"]}\n", "control 1 is not a finite number" },
    { "{\"frame\":0,\"controls\":[1e300]}\n", "control 0 is not a finite number" },
    { "{\"frame\":0,\"controls\":[1]}\n{\"frame\":1,\"action\":1}\n", "line 2: \"controls\" is not there" },
    { "{\"frame\":1,\"controls\":[1]}\n", "frame 1 where frame 0 should be" },
    { "{\"frame\":0,\"pts\":true,\"controls\":[1]}\n", "\"pts\" is neither a whole number nor null" },
    { "{\"frame\":0,\"action\":0,\"controls\":[1]}\n", "a frame has one of them" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      write_file (path, bad[i].text);
      assert_null (nf_actions_read_controls (path, &n, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_FORMAT));
      if (!strstr (error->message, bad[i].part))
        fail_msg ("wanted \"%s\" in: %s", bad[i].part, error->message);
      g_clear_error (&error);
    }
  g_unlink (path);
}

static void
assert_refused (GError **error, const char *part)
{
  assert_true (g_error_matches (*error, NF_ERROR, NF_ERROR_ARGUMENT));
  if (!strstr ((*error)->message, part))
    fail_msg ("wanted \"%s\" in: %s", part, (*error)->message);
  g_clear_error (error);
}

/* What a reader would refuse is not written. */
static void
test_bad_lines (void **state)
{
  static const float bad[][2] = { { 1, NAN }, { 1, INFINITY }, { 1, -INFINITY } }, good[2] = { 1, 2 };
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX), *text = NULL;
  NfActionsWriter *writer = nf_actions_writer_open (path, &error);
  nf_test_ok (writer, error);
  for (guint round = 0; round < 2; round++)
    {
      for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
        {
          assert_false (nf_actions_writer_put_controls (writer, 0, bad[i], 2, &error));
          assert_refused (&error, "control 1 of frame");
        }
      nf_test_ok (nf_actions_writer_put_controls (writer, 0, good, 2, &error), error);
    }
  assert_false (nf_actions_writer_put_controls (writer, 0, good, 0, &error));
  assert_refused (&error, "frame 2 has 0 controls, it must be 1 to");
  assert_false (nf_actions_writer_put_controls (writer, 0, good, 1, &error));
  assert_refused (&error, "frame 2 has 1 controls, but the first frame has 2");
  assert_false (nf_actions_writer_put (writer, 0, 1, &error));
  assert_refused (&error, "frame 2 has 0 controls, but the first frame has 2");
  assert_false (nf_actions_writer_put_controls (writer, NF_ACTIONS_NO_TIME - 1, good, 2, &error));
  assert_refused (&error,
                  "frame 2 has the time 18446744073709551614, it must be at most 9223372036854775807");

  /* from its beginning on a file may be of another kind */
  nf_test_ok (nf_actions_writer_rewind (writer, 0, &error), error);
  nf_test_ok (nf_actions_writer_put (writer, G_MAXINT64, 1, &error), error);
  assert_false (nf_actions_writer_put (writer, (guint64)G_MAXINT64 + 1, 1, &error));
  assert_refused (&error, "frame 1 has the time 9223372036854775808");
  assert_false (nf_actions_writer_put_controls (writer, 0, good, 2, &error));
  assert_refused (&error, "frame 1 has 2 controls, but the first frame has 0");
  nf_test_ok (nf_actions_writer_close (writer, &error), error);
  nf_actions_writer_free (writer);
  nf_test_ok (g_file_get_contents (path, &text, NULL, &error), error);
  assert_string_equal (text, "{\"frame\":0,\"pts\":9223372036854775807,\"action\":1}\n");
  g_autoptr (GArray) actions = nf_actions_read (path, 2, &error);
  nf_test_ok (actions, error);
  g_unlink (path);
}

static void
test_bad_actions_files (void **state)
{
  static const struct
  {
    const char *text, *part;
  } bad[] = {
    { "{\"frame\":0,\"action\":0}\n{\"frame\":2,\"action\":0}\n", "line 2: frame 2 where frame 1" },
    { "{\"frame\":1,\"action\":0}\n", "line 1: frame 1 where frame 0" },
    { "{\"frame\":0,\"action\":3}\n", "\"action\" is 3, not 0 to 2" },
    { "{\"frame\":0,\"action\":-1}\n", "\"action\" is -1" },
    { "{\"frame\":0,\"action\":1.5}\n", "\"action\" is not there, or is not a whole number" },
    { "{\"frame\":0}\n", "\"action\" is not there" },
    { "{\"frame\":0,\"pts\":\"x\",\"action\":0}\n", "line 1: \"pts\" is neither a whole number nor null" },
    { "{\"frame\":0,\"pts\":[0],\"action\":0}\n", "\"pts\" is neither a whole number nor null" },
    { "{\"frame\":0,\"pts\":0.5,\"action\":0}\n", "\"pts\" is neither a whole number nor null" },
    { "{\"frame\":0,\"pts\":-5,\"action\":0}\n", "line 1: \"pts\" is -5, not 0 to" },
    { "{\"frame\":0,\"action\":0}\n{\"frame\":1,\"action\":0,\"controls\":[1]}\n",
      "line 2: \"action\" and \"controls\" are there, but a frame has one of them" },
    { "\n{\"frame\":0,\"action\":0", "line 2: it is not a JSON object" },
    { "[0]\n", "not a JSON object" },
    { "Up\n", "not a JSON object" },
    { "{\"frame\":0,\"action\":0}{\"frame\":1,\"action\":1}\n", "something follows after its end" },
    { "{\"frame\":0,\"action\":0,\"action\":1}\n", "it has \"action\" twice" },
    { "{\"frame\":0x0,\"action\":0}\n", "not a JSON object" },
    { "{\"frame\":0,\"action\":0x2}\n", "not a JSON object" },
    { "var a = {\"frame\":0,\"action\":0}\n", "not a JSON object" },
    { "{\"frame\":18446744073709551616,\"action\":0}\n", "it has a number" },
    { "{\"frame\":0,\"pts\":9223372036854775808,\"action\":0}\n", "it has a number" },
    { "{\"frame\":0,\"action\":0}\n{\"frame\":1,\"action\":0} /* */\n", "line 2: it is not a JSON object" },
    { "{\"frame\":0,\"action\":0}\n\n\xff\n", "line 3: it is not UTF-8" },
  };
  g_autofree char *path = nf_test_temporary (NF_ACTIONS_SUFFIX);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autoptr (GError) error = NULL;
      write_file (path, bad[i].text);
      assert_null (nf_actions_read (path, 3, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_FORMAT));
      if (!strstr (error->message, bad[i].part) || !strstr (error->message, path))
        fail_msg ("wanted \"%s\" in: %s", bad[i].part, error->message);
    }
  g_autofree char *spaces = g_strnfill (100000, 'x');
  g_autoptr (GError) error = NULL;
  /* what a NUL byte hides */
  static const char hidden[] = "{\"frame\":0,\"action\":0}\0{\"frame\":1,\"action\":1}\n";
  nf_test_ok (g_file_set_contents (path, hidden, sizeof hidden - 1, &error), error);
  assert_null (nf_actions_read (path, 3, &error));
  assert_non_null (strstr (error->message, "line 1: it is not"));
  g_clear_error (&error);
  write_file (path, spaces);
  assert_null (nf_actions_read (path, 3, &error));
  assert_non_null (strstr (error->message, "longer than"));
  g_clear_error (&error);
  g_unlink (path);
  assert_null (nf_actions_read (path, 3, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_NOT_FOUND));
  g_clear_error (&error);
  assert_null (nf_actions_writer_open ("/nowhere/at/all", &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_WRITE));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_names),
    cmocka_unit_test (test_sizes),
    cmocka_unit_test (test_bad_action),
    cmocka_unit_test (test_known_frames),
    cmocka_unit_test (test_strides),
    cmocka_unit_test (test_seeds),
    cmocka_unit_test (test_frames_show_the_state),
    cmocka_unit_test (test_frames_are_read),
    cmocka_unit_test (test_noisy_frames_are_read),
    cmocka_unit_test (test_wrong_balls_are_noticed),
    cmocka_unit_test (test_wrong_walls_are_noticed),
    cmocka_unit_test (test_ball_stays_inside),
    cmocka_unit_test (test_actions_show_in_the_next_frame),
    cmocka_unit_test (test_following_never_misses),
    cmocka_unit_test (test_map_stays),
    cmocka_unit_test (test_entropy_by_hand),
    cmocka_unit_test (test_entropy_by_counting),
    cmocka_unit_test (test_information_is_entropy_on_average),
    cmocka_unit_test (test_branches),
    cmocka_unit_test (test_marked_files),
    cmocka_unit_test (test_actions_file),
    cmocka_unit_test (test_unknown_actions),
    cmocka_unit_test (test_no_room),
    cmocka_unit_test (test_controls_file),
    cmocka_unit_test (test_bad_lines),
    cmocka_unit_test (test_bad_actions_files),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}

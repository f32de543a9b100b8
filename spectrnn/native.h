/* What all C kernels share. */

/* A loop whose iterations are independent, although the compiler cannot know that: the arrays do not overlap. */
#if defined(__clang__)
#define EACH(i, count) _Pragma("clang loop vectorize(assume_safety)") for (long i = 0; i < (count); i++)
#else
#define EACH(i, count) _Pragma("GCC ivdep") for (long i = 0; i < (count); i++)
#endif

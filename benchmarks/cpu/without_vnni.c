/* Run a program as if this x86-64 CPU ended at AVX2: no VNNI, no AVX-512, no AMX.
 *
 * Preloaded, this library lets the kernel trap CPUID (arch_prctl(2), ARCH_SET_CPUID) and answers for the CPU with the
 * masked bits cleared. Everything else runs at native speed. Threads and forked processes inherit the trap. Programs
 * that are executed lose it and get it back here, since execve passes the preload on. Static binaries are not covered.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char preload[4096] = "LD_PRELOAD=";
static struct sigaction chained; /* what the program itself wants of SIGSEGV */
static bool active;

/* Lets Python ask whether the CPU is masked. */
bool without_vnni_active(void) { return active; }

/* A system call by hand: errno belongs to the interrupted code. */
static long set_cpuid(unsigned long allowed) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"((long)SYS_arch_prctl), "D"((long)ARCH_SET_CPUID), "S"(allowed)
                     : "rcx", "r11", "memory");
    return result;
}

#define BIT(n) (1u << (n))

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "0"(leaf), "2"(subleaf));
    if (leaf == 7 && subleaf == 0) {
        /* AVX512F, DQ, IFMA, PF, ER, CD, BW, VL */
        r[1] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        /* AVX512_VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
        r[2] &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        /* AVX512_4VNNIW, 4FMAPS, VP2INTERSECT, AMX_BF16, AVX512_FP16, AMX_TILE, AMX_INT8 */
        r[3] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && subleaf == 1) {
        /* AVX_VNNI, AVX512_BF16, AMX_FP16, AVX_IFMA */
        r[0] &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        /* AVX_VNNI_INT8, AVX_NE_CONVERT, AMX_COMPLEX, AVX_VNNI_INT16, AVX10 */
        r[3] &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19));
    } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) { /* AMX tiles and multiplication, AVX10 */
        memset(r, 0, 4 * sizeof *r);
    }
}

static void set_handler(struct sigaction action) {
    REAL(sigaction)(SIGSEGV, &action, NULL);
}

static void pass_on(int number, siginfo_t *info, void *context) {
    struct sigaction wanted = chained;
    bool sent = info->si_code <= 0; /* by kill or raise, not by a fault */
    if (wanted.sa_flags & SA_RESETHAND) {
        chained = (struct sigaction){.sa_handler = SIG_DFL};
    }
    if (wanted.sa_flags & SA_SIGINFO) {
        wanted.sa_sigaction(number, info, context);
    } else if (wanted.sa_handler == SIG_IGN && sent) {
        return;
    } else if (wanted.sa_handler == SIG_DFL || wanted.sa_handler == SIG_IGN) {
        set_handler((struct sigaction){.sa_handler = SIG_DFL});
        if (sent) {
            raise(number);
        } /* A fault happens again, and ends the process as it would have. */
    } else {
        wanted.sa_handler(number);
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)at[REG_RIP];
    /* A general protection fault has no address. Where one was raised, the code was read and can be read again. */
    if (info->si_code != SI_KERNEL || info->si_addr || code[0] != 0x0f || code[1] != 0xa2) {
        pass_on(number, info, context);
        return;
    }
    uint32_t r[4];
    set_cpuid(1);
    cpuid((uint32_t)at[REG_RAX], (uint32_t)at[REG_RCX], r);
    set_cpuid(0);
    at[REG_RAX] = r[0], at[REG_RBX] = r[1], at[REG_RCX] = r[2], at[REG_RDX] = r[3];
    at[REG_RIP] += 2;
}

/* The handler stays ours: what the program sets and asks for is kept in `chained`. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (number != SIGSEGV || !active) {
        return REAL(sigaction)(number, new, old);
    }
    struct sigaction before = chained;
    if (new) {
        chained = *new;
    }
    if (old) {
        *old = before;
    }
    return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
    if (number != SIGSEGV || !active) {
        return REAL(signal)(number, handler);
    }
    struct sigaction before = chained;
    chained = (struct sigaction){.sa_handler = handler, .sa_flags = SA_RESTART};
    return before.sa_handler;
}

/* A thread that blocks SIGSEGV would be killed by its next CPUID. */
static const sigset_t *unblocked(int how, const sigset_t *set, sigset_t *copy) {
    if (!set || how == SIG_UNBLOCK) {
        return set;
    }
    *copy = *set;
    sigdelset(copy, SIGSEGV);
    return copy;
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    sigset_t copy;
    return REAL(pthread_sigmask)(how, unblocked(how, set, &copy), old);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    sigset_t copy;
    return REAL(sigprocmask)(how, unblocked(how, set, &copy), old);
}

/* Children that get an environment of their own are masked too. */
int execve(const char *path, char *const arguments[], char *const environment[]) {
    static const char name[] = "LD_PRELOAD=";
    size_t count = 0;
    while (environment && environment[count]) {
        count++;
    }
    const char *changed[count + 2];
    char *both = NULL;
    size_t kept = 1;
    changed[0] = preload;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(environment[i], name, strlen(name))) {
            changed[kept++] = environment[i];
        } else if (strstr(environment[i], preload + strlen(name))) {
            changed[0] = environment[i];
        } else {
            size_t size = strlen(preload) + strlen(environment[i]) + 1;
            both = __builtin_alloca(size);
            snprintf(both, size, "%s:%s", preload, environment[i] + strlen(name));
            changed[0] = both;
        }
    }
    changed[kept] = NULL;
    return REAL(execve)(path, arguments, active ? (char *const *)changed : environment);
}

__attribute__((constructor)) static void begin(void) {
    Dl_info self;
    if (!dladdr((void *)begin, &self) || strlen(self.dli_fname) >= sizeof preload - strlen(preload)) {
        dprintf(STDERR_FILENO, "without_vnni: the library's own path is not known or too long\n");
        _exit(1);
    }
    strcat(preload, self.dli_fname);
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    REAL(sigprocmask)(SIG_UNBLOCK, &segv, NULL);
    REAL(sigaction)(SIGSEGV, NULL, &chained);
    /* SA_NODEFER: a handler of the program may execute CPUID too. */
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART};
    sigemptyset(&ours.sa_mask);
    set_handler(ours);
    if (set_cpuid(0)) {
        dprintf(STDERR_FILENO, "without_vnni: this CPU or kernel cannot trap CPUID\n");
        _exit(1);
    }
    active = true;
}
